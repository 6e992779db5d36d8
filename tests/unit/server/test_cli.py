from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.cli import ADMIN_KEY, main, parse, settings_from
from server.settings import ROOT, ServerSettings


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_options_it_serves_what_the_checkout_holds_on_loopback() -> None:
    options, command = parse([])
    assert settings_from(options) == ServerSettings(avatars=Path("avatars"))
    assert ServerSettings().model_repositories == (ROOT / "model_repository",)
    assert ServerSettings().host == "127.0.0.1"
    assert command == []


def test_every_option_reaches_the_settings() -> None:
    line = (
        "--avatars A --model-repository M --model-repository N --load ann bob --load carl --grpc-port 0 "
        "--http-port 1 --metrics-port 2 --host 0.0.0.0 --gpu --gpu-slots 4 --log L --verbose 3 "
        "--start-timeout 9 --triton-option=--id=x"
    )
    options, _ = parse(line.split())
    assert settings_from(options) == ServerSettings(
        model_repositories=(Path("M"), Path("N")),
        avatars=Path("A"),
        load=("ann", "bob", "carl"),
        grpc_port=0,
        http_port=1,
        metrics_port=2,
        host="0.0.0.0",
        gpu=True,
        gpu_slots=4,
        log=Path("L"),
        verbose=3,
        start_timeout_s=9,
        triton_options=("--id=x",),
    )
    assert settings_from(parse(["--load-all"])[0]).load_all


def test_the_admin_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADMIN_KEY, "s3cret")
    assert settings_from(parse([])[0]).admin_key == "s3cret"


def test_what_follows_two_dashes_is_the_command() -> None:
    options, command = parse(["--load", "demo", "--", "python", "-m", "client", "--", "--load", "x"])
    assert options.load == ["demo"]
    assert command == ["python", "-m", "client", "--", "--load", "x"]


@pytest.mark.parametrize("line", ["--load a --load-all", "--grpc-port x", "--unknown"])
def test_a_wrong_line_ends_with_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    assert caught.value.code == 2
    assert "usage: python -m server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--avatars nowhere", "there is no avatars folder nowhere"),
        ("--avatars . --load ../x", "is not an avatar id"),
        ("--avatars . --load nobody", "there is no avatar nobody"),
        ("--grpc-port 70000", "grpc_port is 70000"),
        ("--avatars . --health-port 70000", "health_port is 70000"),
        ("--avatars . --health-port 8001", "they must differ"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model-repository", ".", *line.split()]) == 1
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.startswith("server: ")
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
