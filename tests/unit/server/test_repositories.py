from __future__ import annotations

from pathlib import Path

import pytest

from compositor_backend.errors import AvatarIdError, SettingsError
from server.repositories import compile_models, models_to_load
from server.settings import ServerSettings


def add_models(repository: Path, *names: str) -> Path:
    for name in names:
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(f'name: "{name}"')
    return repository


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return add_models(tmp_path / "model_repository", "compositor", "audio_features")


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    folder = add_models(
        tmp_path / "avatars",
        *("avatar_ann", "features_ann", "lipsync_ann", "features_bob", "lipsync_bob", "audio_encoder_demo"),
    )
    # The avatar's data, without an ensemble that takes speech.
    (folder / "avatar_bob").mkdir()
    return folder


def settings(shared: Path, avatars: Path | None, **more: object) -> ServerSettings:
    return ServerSettings(model_repositories=(shared,), avatars=avatars, **more)  # type: ignore[arg-type]


def test_shared_models_come_before_the_avatars_ensembles(shared: Path, avatars: Path) -> None:
    assert models_to_load(settings(shared, avatars, load=("ann",))) == [
        "audio_features",
        "compositor",
        "avatar_ann",
        "features_ann",
    ]


def test_an_avatar_with_one_ensemble_has_that_one_loaded(shared: Path, avatars: Path) -> None:
    assert models_to_load(settings(shared, avatars, load=("bob",)))[2:] == ["features_bob"]


def test_all_avatars(shared: Path, avatars: Path) -> None:
    assert models_to_load(settings(shared, avatars, load_all=True))[2:] == [
        "avatar_ann",
        "features_ann",
        "features_bob",
    ]


def test_an_avatar_named_twice_is_loaded_once(shared: Path, avatars: Path) -> None:
    assert len(models_to_load(settings(shared, avatars, load=("bob", "bob")))) == 3


def test_of_the_shared_models_some_or_none_may_be_named(shared: Path) -> None:
    assert models_to_load(settings(shared, None, models=())) == []
    assert models_to_load(settings(shared, None, models=("compositor",))) == ["compositor"]


@pytest.mark.parametrize("avatar_id", ["../ann", "", "Ann", "a" * 65, "ann/"])
def test_what_is_no_avatar_id_never_becomes_a_path(shared: Path, avatars: Path, avatar_id: str) -> None:
    with pytest.raises(AvatarIdError):
        models_to_load(settings(shared, avatars, load=(avatar_id,)))


def test_an_unknown_avatar_is_named_with_those_there_are(shared: Path, avatars: Path) -> None:
    with pytest.raises(SettingsError, match=r"no avatar carl in .*; it holds ann, bob"):
        models_to_load(settings(shared, avatars, load=("carl",)))


def test_a_missing_folder_is_named(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no avatars folder .*nowhere.*make avatar"):
        models_to_load(settings(shared, tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"no model repository .*nowhere"):
        models_to_load(settings(tmp_path / "nowhere", None))
    with pytest.raises(SettingsError, match="no avatars folder is given"):
        models_to_load(settings(shared, None, load=("ann",)))


def test_compiling_leaves_nothing_for_a_later_import_to_write(shared: Path) -> None:
    model = shared / "compositor" / "1" / "model.py"
    model.write_text("ANSWER = 42\n")
    compile_models(shared)
    cache = model.parent / "__pycache__"
    assert [path.name.split(".")[0] for path in cache.iterdir()] == ["model"]
    before = (cache.stat().st_mtime_ns, model.parent.stat().st_mtime_ns)
    compile_models(shared)
    assert (cache.stat().st_mtime_ns, model.parent.stat().st_mtime_ns) == before


def test_a_model_that_does_not_compile_is_left_to_triton(
    shared: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is noted, its file stays as it is, and the models beside it are compiled nevertheless."""
    broken, whole = (shared / name / "1" / "model.py" for name in ("audio_features", "compositor"))
    broken.write_text("def broken(:\n")
    whole.write_text("ANSWER = 42\n")
    with caplog.at_level("INFO", "server.repositories"):
        compile_models(shared)
    assert broken.read_text() == "def broken(:\n"
    assert not list(broken.parent.glob("__pycache__/*"))
    assert [path.name.split(".")[0] for path in whole.parent.glob("__pycache__/*")] == ["model"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{shared}: some Python models could not be compiled beforehand"
    ]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("which", ["shared", "avatars"])
def test_a_path_with_a_space_is_refused_before_triton_hangs_on_it(
    shared: Path, avatars: Path, tmp_path: Path, which: str
) -> None:
    folders = {"shared": shared, "avatars": avatars}
    folders[which] = folders[which].rename(tmp_path / "with a space")
    with pytest.raises(SettingsError, match="with a space has a space in its path"):
        models_to_load(settings(folders["shared"], folders["avatars"], load=("ann",)))


def test_a_folder_that_cannot_be_written_to_is_no_error(shared: Path) -> None:
    folder = shared / "compositor" / "1"
    (folder / "model.py").write_text("ANSWER = 42\n")
    # In the place of the folder for compiled files: this stops root as well.
    (folder / "__pycache__").touch()
    compile_models(shared)
    assert sorted(path.name for path in folder.iterdir()) == ["__pycache__", "model.py"]
