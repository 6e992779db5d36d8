from __future__ import annotations

from pathlib import Path

import pytest

from compositor_backend.errors import SettingsError
from compositor_backend.settings import Settings, read_settings

MODEL = Path("/srv/model_repository/compositor")
MIB = 1024 * 1024


def test_defaults() -> None:
    assert read_settings({}, {}, MODEL) == Settings(Path("/srv/avatars"), 8192 * MIB)


def test_model_parameters_win_over_defaults() -> None:
    parameters = {"avatars_folder": "/data/avatars", "pack_cache_mib": "64"}
    assert read_settings({}, parameters, MODEL) == Settings(Path("/data/avatars"), 64 * MIB)


def test_environment_wins_over_model_parameters() -> None:
    environment = {"LIPSTREAM_AVATARS": "/env/avatars", "LIPSTREAM_PACK_CACHE_MIB": "1", "HOME": "/root"}
    parameters = {"avatars_folder": "/data/avatars", "pack_cache_mib": "64"}
    assert read_settings(environment, parameters, MODEL) == Settings(Path("/env/avatars"), MIB)


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
    assert read_settings({}, {}, MODEL).pack_idle_s == 60
    assert read_settings({}, parameters, MODEL).pack_idle_s == 5
    assert read_settings({"LIPSTREAM_PACK_IDLE_S": "300"}, parameters, MODEL).pack_idle_s == 300


@pytest.mark.parametrize("name", ["LIPSTREAM_PACK_CACHE_MIB", "LIPSTREAM_PACK_IDLE_S"])
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "8 GiB", "1e3", "²", " 5", "9" * 5000])
def test_a_wrong_number_is_named(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} .* is wanted$") as error:
        read_settings({name: text}, {}, MODEL)
    assert len(str(error.value)) < 300


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings(Path("a")).pack_cache_bytes = 1  # type: ignore[misc]
