from __future__ import annotations

from pathlib import Path

import pytest

from compositor_backend.errors import AvatarIdError, SettingsError
from compositor_backend.settings import Settings, read_settings

MODEL = Path("/srv/model_repository/compositor")
MIB = 1024 * 1024


def test_defaults() -> None:
    settings = read_settings({"HOME": "/home/x"}, {}, MODEL)
    assert (settings.avatars_folder, settings.pack_cache_bytes) == (Path("/srv/avatars"), 8192 * MIB)
    assert (settings.network_cache_bytes, settings.scratch_bytes) == (512 * MIB, None)
    assert (settings.load_timeout_s, settings.warm_avatars) == (30, ())
    assert settings.cache_folder == Path("~/.cache/lipstream").expanduser()


def test_model_parameters_win_over_defaults() -> None:
    parameters = {"avatars_folder": "/data/avatars", "pack_cache_mib": "64"}
    settings = read_settings({}, parameters, MODEL)
    assert (settings.avatars_folder, settings.pack_cache_bytes) == (Path("/data/avatars"), 64 * MIB)


def test_environment_wins_over_model_parameters() -> None:
    environment = {"LIPSTREAM_AVATARS": "/env/avatars", "LIPSTREAM_PACK_CACHE_MIB": "1", "HOME": "/root"}
    parameters = {"avatars_folder": "/data/avatars", "pack_cache_mib": "64"}
    settings = read_settings(environment, parameters, MODEL)
    assert (settings.avatars_folder, settings.pack_cache_bytes) == (Path("/env/avatars"), MIB)


def test_what_networks_may_take() -> None:
    environment = {
        "LIPSTREAM_NETWORK_CACHE_MIB": "7",
        "LIPSTREAM_SCRATCH_MIB": "9",
        "LIPSTREAM_LOAD_TIMEOUT_S": "5",
        "LIPSTREAM_WARM": "ann, bob,",
        "XDG_CACHE_HOME": "/var/cache",
    }
    settings = read_settings(environment, {"network_cache_mib": "1"}, MODEL)
    assert (settings.network_cache_bytes, settings.scratch_bytes) == (7 * MIB, 9 * MIB)
    assert (settings.load_timeout_s, settings.warm_avatars) == (5, ("ann", "bob"))
    assert settings.cache_folder == Path("/var/cache/lipstream")
    assert read_settings({"LIPSTREAM_CACHE": "/c"}, {}, MODEL).cache_folder == Path("/c")
    with pytest.raises(AvatarIdError):
        read_settings({"LIPSTREAM_WARM": "../x"}, {}, MODEL)


def test_a_relative_folder_hangs_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_settings({"LIPSTREAM_AVATARS": "faces"}, {}, MODEL).avatars_folder == tmp_path / "faces"


def test_empty_variables_count_as_unset() -> None:
    environment = {"LIPSTREAM_AVATARS": "", "LIPSTREAM_PACK_CACHE_MIB": ""}
    assert read_settings(environment, {}, MODEL) == read_settings({}, {}, MODEL)


def test_how_long_an_idle_pack_stays_open() -> None:
    parameters = {"pack_idle_s": "5"}
    assert read_settings({}, {}, MODEL).pack_idle_s == 30
    assert read_settings({}, parameters, MODEL).pack_idle_s == 5
    assert read_settings({"LIPSTREAM_PACK_IDLE_S": "300"}, parameters, MODEL).pack_idle_s == 300


@pytest.mark.parametrize(
    "name", ["LIPSTREAM_PACK_CACHE_MIB", "LIPSTREAM_NETWORK_CACHE_MIB", "LIPSTREAM_PACK_IDLE_S"]
)
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "8 GiB", "1e3", "²", " 5", "9" * 5000])
def test_a_wrong_number_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} .* expected a whole number") as error:
        read_settings({name: text}, {}, MODEL)
    assert len(str(error.value)) < 300


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings(Path("a")).pack_cache_bytes = 1  # type: ignore[misc]
