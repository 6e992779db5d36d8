from __future__ import annotations

import signal
from collections.abc import Iterator
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
