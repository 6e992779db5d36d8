from __future__ import annotations

import configparser
import shlex
import socket
from pathlib import Path

import pytest

from server.cli import parse
from server.settings import ROOT
from server.watchdog.systemd import notify
from tests.support.served import LONGEST_STOP_S


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=serving")
        assert systemd.recv(100) == b"READY=1\nSTATUS=serving"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_a_systemd_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("WATCHDOG=1")


def test_the_unit_file_starts_what_there_is() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "server" / "lipstream.service")
    assert unit["Service"]["Type"] == "notify"
    python, dash_m, room, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(python).name, dash_m, room) == ("python", "-m", "server")
    options, command = parse(arguments)
    assert options.log == Path("/var/log/lipstream/triton.log")
    assert command == []
    assert int(unit["Service"]["TimeoutStopSec"]) > LONGEST_STOP_S
