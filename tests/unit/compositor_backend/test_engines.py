from __future__ import annotations

from pathlib import Path

import pytest

from compositor_backend import engines
from compositor_backend.engines import engine_folder, platform_name, this_platform


@pytest.mark.parametrize(
    ("gpu", "tensorrt", "name"),
    [
        ("NVIDIA GeForce RTX 4090", 101_300, "nvidia-geforce-rtx-4090-trt10.13.0"),
        ("NVIDIA H100 80GB HBM3", 100_502, "nvidia-h100-80gb-hbm3-trt10.5.2"),
        ("../../etc", 101_300, "etc-trt10.13.0"),
    ],
)
def test_a_platforms_name_is_one_of_a_folder(gpu: str, tensorrt: int, name: str) -> None:
    assert platform_name(gpu, tensorrt) == name


def test_no_two_networks_share_a_folder(tmp_path: Path) -> None:
    first, second = (engine_folder(tmp_path, "gpu-trt10.13.0", digit * 64) for digit in "ab")
    assert first != second
    assert first.parent == second.parent == tmp_path / "engines" / "gpu-trt10.13.0"


def test_this_platform_is_what_driver_and_library_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    (card / "information").write_text("Model: \t\t NVIDIA GeForce RTX 4090\nIRQ: 5\n")
    monkeypatch.setattr(engines, "_GPUS", tmp_path)
    monkeypatch.setattr(engines, "_tensorrt_version", lambda: 101_300)
    assert this_platform() == "nvidia-geforce-rtx-4090-trt10.13.0"
    monkeypatch.setattr(engines, "_tensorrt_version", lambda: None)
    assert this_platform() is None


def test_a_machine_without_a_driver_has_no_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_GPUS", tmp_path / "none")
    monkeypatch.setattr(engines, "_tensorrt_version", lambda: 101_300)
    assert this_platform() is None
