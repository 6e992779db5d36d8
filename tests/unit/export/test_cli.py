from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.cli import main
from tests.support.networks import random_unet, save

ROOT = Path(__file__).parents[3]


def test_a_checkpoint_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(random_unet("160", "hubert").state_dict(), tmp_path / "u.pth")
    out = tmp_path / "u.onnx"
    assert (
        main(["unet", "--checkpoint", str(path), "--family", "160", "--audio", "hubert", "--out", str(out)])
        == 0
    )
    assert out.is_file()
    assert str(out) in capsys.readouterr().out


def test_an_error_is_one_sentence_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone, out = str(tmp_path / "gone.pth"), str(tmp_path / "o.onnx")
    assert main(["unet", "--checkpoint", gone, "--family", "328", "--audio", "ave", "--out", out]) == 1
    assert capsys.readouterr().err == f"error: {gone} is not there; a checkpoint (.pth) is wanted\n"


def test_a_wrong_call_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["unet", "--family", "500"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None; from export.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_needs_no_torch() -> None:
    run = without_torch("--help")
    assert run.returncode == 0, run.stderr
    for command in (
        "unet",
        "encoder",
        "avatar",
        "import",
        "prepare",
        "check",
        "pack",
        "unpack",
        "clone",
        "engine",
        "demo-avatar",
        "demo-train",
        "demo-eval",
        "contact-sheet",
    ):
        assert command in run.stdout


def test_a_command_that_needs_torch_says_how_to_get_it(tmp_path: Path) -> None:
    run = without_torch("encoder", "--checkpoint", str(tmp_path / "e.pth"), "--out", str(tmp_path / "e.onnx"))
    assert run.returncode == 1
    assert run.stderr == "error: this needs torch: pip install 'lipstream[export]'\n"
