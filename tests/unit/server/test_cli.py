from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.cli import main, parse, settings_from
from server.settings import ROOT, ServerSettings


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_options_it_serves_what_the_checkout_holds_on_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LIPSTREAM_AVATARS", raising=False)
    options, command = parse([])
    assert settings_from(options) == ServerSettings(avatars=Path("avatars"))
    assert ServerSettings().model_repository == ROOT / "model_repository"
    assert ServerSettings().host == "127.0.0.1"
    assert command == []


def test_an_avatars_folder_is_taken_from_the_environment_unless_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIPSTREAM_AVATARS", "/srv/avatars")
    assert settings_from(parse([])[0]).avatars == Path("/srv/avatars")
    assert settings_from(parse(["--avatars", "mine"])[0]).avatars == Path("mine")


def test_every_option_reaches_the_settings(tmp_path: Path) -> None:
    line = (
        f"--avatars A --model-repository {tmp_path} --grpc-port 0 --http-port 1 --metrics-port 2 --host 0.0.0.0 "
        "--gpu --networks-mib 64 --scratch-mib 8 --cache C --log L --verbose 3 --start-timeout 9 "
        "--triton-option=--id=x"
    )
    options, _ = parse(line.split())
    assert settings_from(options) == ServerSettings(
        model_repository=tmp_path,
        avatars=Path("A"),
        grpc_port=0,
        http_port=1,
        metrics_port=2,
        host="0.0.0.0",
        gpu=True,
        networks_mib=64,
        scratch_mib=8,
        cache=Path("C"),
        log=Path("L"),
        verbose=3,
        start_timeout_s=9,
        triton_options=("--id=x",),
    )


def test_what_follows_two_dashes_is_the_command() -> None:
    options, command = parse(["--gpu", "--", "python", "-m", "client", "--", "--gpu", "x"])
    assert options.gpu
    assert command == ["python", "-m", "client", "--", "--gpu", "x"]


@pytest.mark.parametrize("line", ["--grpc-port x", "--unknown"])
def test_a_wrong_line_ends_with_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    assert caught.value.code == 2
    assert "usage: python -m server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ("--model-repository nowhere", "nowhere"),
        ("--grpc-port 70000", "grpc_port"),
        ("--networks-mib 0", "networks_mib"),
        ("--health-port 70000", "health_port"),
        ("--health-port 8001", "health_port"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    line: str, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 1
    printed = capsys.readouterr().err
    assert token in printed
    assert printed.startswith("server: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("options", ["", "--log triton.log"])
def test_without_a_temporary_folder_it_says_what_to_mount(
    options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container with a read-only root; `tempfile` raises FileNotFoundError there."""

    def find_none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", find_none)
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
    assert main([*ports, *options.split()]) == 1
    printed = capsys.readouterr().err
    assert "tmpfs at /tmp" in printed
    assert printed.count("\n") == 1


class FakeTriton:
    """In the place of a `TritonServer`: it serves at once, and ends when the test says so."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.reachable_host = settings.host
        self.grpc_url = self.http_url = self.metrics_url = "somewhere"
        self.ended = False
        self.cleaned_up = False
        self.on_wait: Callable[[], None] = lambda: None

    @property
    def http(self) -> None:
        return None

    def processes(self) -> dict[int, str]:
        return {}

    def __enter__(self) -> FakeTriton:
        return self

    def __exit__(self, *_: object) -> None:
        self.cleaned_up = True

    def wait(self) -> None:
        self.on_wait()
        raise KeyboardInterrupt


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> FakeTriton:
    made = FakeTriton(ServerSettings())
    monkeypatch.setattr("server.cli.TritonServer", lambda _settings: made)
    monkeypatch.setattr("server.cli._PING_S", 0.01)
    return made


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def test_without_restarts_systemd_is_told_too(triton: FakeTriton, systemd: socket.socket) -> None:
    told: list[bytes] = []

    def listen() -> None:
        while b"WATCHDOG=1" not in told:
            told.append(systemd.recv(100))

    triton.on_wait = listen
    assert main(["--no-restart"]) == 0
    assert told[0] == b"READY=1" or told[:2] == [b"WATCHDOG=1", b"READY=1"]


def test_a_second_ctrl_c_does_not_interrupt_cleaning_up(
    triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = []

    class Thread(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if self.name == "watch":
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)
                joined.append(self)
            super().join(timeout)

    monkeypatch.setattr("server.cli.threading.Thread", Thread)
    monkeypatch.setattr("server.cli.Watch.run", lambda _watch, stop: stop.wait())
    monkeypatch.setattr("server.cli._print_addresses", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["--health-port", "0"]) == 0
    assert joined
    assert triton.cleaned_up
