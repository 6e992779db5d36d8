"""The command line as a user meets it: against a server in this process, and as a process of its own."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from client import cli
from compositor_backend import contract
from tests.unit.client.grpc_server import Service, served
from tests.unit.client.speaker import noise
from tests.unit.client.test_sinks import jpeg, picture
from tests.unit.client.test_triton import strings, unused_address

DTYPES = {"INT32": np.int32, "INT16": np.int16}
PICTURES = [jpeg(picture(index)) for index in range(60)]


async def talk(request: Any, context: Any) -> Any:
    """The ensemble's answer in real JPEG, from raw protocol buffers."""
    tensors = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    indices = np.frombuffer(tensors["FRAME_INDEX"], np.int32)
    contract.check_pcm(np.frombuffer(tensors["PCM"], np.int16), len(indices))
    assert request.model_name == "avatar"
    assert dict(context.invocation_metadata())["x-avatar-id"].encode() in tensors["AVATAR"]
    response = service_pb2.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="JPEG", datatype="BYTES", shape=[len(indices)])
    response.raw_output_contents.append(strings(*(PICTURES[index] for index in indices)))
    return response


class Server:
    """The service in a thread of its own, for a command that runs its own event loop."""

    def __init__(self) -> None:
        self.service = Service(talk)
        self.url = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with served(self.service) as self.url:
            self._started.set()
            await self._stop.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "speech.wav", np.stack([noise(44100)] * 2, axis=1), 44100)
    return tmp_path / "speech.wav"


def test_speaking_writes_frames_video_and_report_and_prints_them(
    server: Server, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = cli.main(
        [
            *("speak", "--avatar", "demo", "--audio", str(speech), "--url", server.url, "--chunk", "10"),
            *("--out", str(out / "frames"), "--mp4", str(out / "a.mp4")),
            *("--report", str(out / "report.json")),
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    files = sorted((out / "frames").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.jpg" for index in range(25)]
    assert [file.read_bytes() for file in files] == PICTURES[:25]
    with av.open(str(out / "a.mp4")) as container:
        assert container.duration == pytest.approx(1e6, abs=40_000)
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == 25
    for shown in ("frames/s", "time to first frame", f"{report['frames_per_s']:.1f}"):
        assert shown in printed.out


def test_quiet_says_nothing(server: Server, speech: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["speak", "--avatar", "demo", "--audio", str(speech), "--url", server.url, "--quiet"])
    assert (code, *capsys.readouterr()) == (0, "", "")


async def rest(request: Any, context: Any) -> Any:
    """The answer of `idle_frames`, which hears nothing."""
    assert request.model_name == "idle_frames"
    tensors = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    assert set(tensors) == {"AVATAR", "FRAME_INDEX"}
    response = service_pb2.ModelInferResponse(model_name=request.model_name)
    indices = np.frombuffer(tensors["FRAME_INDEX"], np.int32)
    response.outputs.add(name="JPEG", datatype="BYTES", shape=[len(indices)])
    response.raw_output_contents.append(strings(*(PICTURES[index] for index in indices)))
    return response


def test_idling_writes_frames_that_no_network_drew(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.service.handler = rest
    arguments = ["--avatar", "demo", "--seconds", "1.5", "--url", server.url, "--out", str(tmp_path / "out")]
    code = cli.main(["idle", *arguments])
    assert code == 0, capsys.readouterr().err
    files = sorted((tmp_path / "out").iterdir())
    assert [file.read_bytes() for file in files] == PICTURES[:38]


INFO = {
    "id": "ann", "width": 1280, "height": 720, "fps": 25, "frames": 523, "family": "328", "audio_mode": "ave",
    "audio_shape": [32, 16, 16], "takes_pcm": True, "idle_frames": True,
}  # fmt: skip
OTHER = {**INFO, "id": "bob", "audio_mode": "hubert", "takes_pcm": False, "idle_frames": False}


async def catalog(request: Any, context: Any) -> Any:
    """The answer of the model of that name."""
    assert request.model_name == "catalog"
    response = service_pb2.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="MANIFEST", datatype="BYTES", shape=[2])
    response.raw_output_contents.append(strings(*(json.dumps(entry).encode() for entry in (INFO, OTHER))))
    return response


def test_avatars_are_listed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.service.handler = catalog
    assert cli.main(["avatars", "--url", server.url]) == 0
    printed = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["ann", "1280x720", "523", "328", "speech", "yes"] in rows
    assert ["bob", "1280x720", "523", "328", "hubert", "features", "no"] in rows
    assert "2 avatars" in printed


def test_avatars_are_listed_as_json(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.service.handler = catalog
    assert cli.main(["avatars", "--url", server.url, "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [INFO, OTHER]


def test_avatars_are_warmed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    async def note(request: Any, context: Any) -> Any:
        asked.append(dict(context.invocation_metadata())["x-avatar-id"])
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="REGION", datatype="BYTES", shape=[1])
        response.raw_output_contents.append(strings(b"region"))
        response.outputs.add(name="REGION_RECT", datatype="INT32", shape=[1, 4])
        response.raw_output_contents.append(bytes(16))
        return response

    server.service.handler = note
    assert cli.main(["warm", "ann", "bob", "--url", server.url]) == 0
    assert asked == ["ann", "bob"]
    assert capsys.readouterr().out.splitlines() == ["ann is warm", "bob is warm"]


def test_the_address_can_come_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIPSTREAM_URL", server.url)
    server.service.handler = catalog
    assert cli.main(["avatars"]) == 0
    assert "ann" in capsys.readouterr().out


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "client", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_as_a_process_without_a_server_it_is_one_sentence_and_nothing_is_left(
    speech: Path, tmp_path: Path
) -> None:
    url = unused_address()
    done = run(
        "speak", "--avatar", "demo", "--audio", str(speech), "--url", url, "--mp4", str(tmp_path / "a.mp4")
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: no Triton answers at {url}")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


@pytest.mark.parametrize(
    ("changed", "code", "sentence"),
    [
        ({"--avatar": "../x"}, 1, "AVATAR '../x' is not an avatar id"),
        ({"--avatar": "x" * 300}, 1, "is not an avatar id"),
        ({"--chunk": "7"}, 1, "chunk_frames a multiple of 5 from 5 to 30, got 7"),
        ({"--url": "http://h"}, 1, "host:port"),
        ({"--audio": "none.wav"}, 5, "none.wav cannot be read"),
        ({"--mp4": "/dev/null/a.mp4"}, 6, "/dev/null"),
    ],
)
def test_mistakes_get_one_sentence_and_a_code(
    server: Server,
    speech: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    code: int,
    sentence: str,
) -> None:
    arguments = {"--avatar": "demo", "--audio": str(speech), "--url": server.url, **changed}
    assert cli.main(["speak", "--quiet", *(part for pair in arguments.items() for part in pair)]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_what_the_server_refuses_is_code_4_and_says_what_is_kept(
    server: Server, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse_later(request: Any, context: Any) -> Any:
        if np.frombuffer(request.raw_input_contents[1], np.int32)[0] >= 10:
            await context.abort(StatusCode.INVALID_ARGUMENT, "in ensemble 'avatar', no more today")
        return await talk(request, context)

    server.service.handler = refuse_later
    out = tmp_path / "frames"
    code = cli.main(
        [
            *("speak", "--avatar", "demo", "--audio", str(speech), "--url", server.url),
            *("--out", str(out), "--chunk", "5", "--in-flight", "1"),
        ]
    )
    printed = capsys.readouterr()
    assert code == 4
    assert printed.err == "error: no more today (10 frames had been delivered)\n"
    assert "10 frames are kept in" in printed.out
    assert len(list(out.iterdir())) == 10


def test_ctrl_c_stops_at_once_and_keeps_what_there_is(server: Server, speech: Path, tmp_path: Path) -> None:
    async def hang_later(request: Any, context: Any) -> Any:
        if np.frombuffer(request.raw_input_contents[1], np.int32)[0] >= 10:
            await asyncio.Event().wait()
        return await talk(request, context)

    server.service.handler = hang_later
    out = tmp_path / "out"
    command = [sys.executable, "-m", "client", "speak", "--avatar", "demo", "--audio", str(speech)]
    command += ["--url", server.url, "--chunk", "5", "--out", str(out), "--mp4", str(tmp_path / "a.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (out / "000009.jpg").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "interrupted\n")
    assert "10 frames are kept in" in printed
    assert len(list(out.iterdir())) == 10
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["a.partial.mp4"]


IDLE = ["idle", "--avatar", "demo", "--seconds"]
USAGE = [[], ["sing"], ["speak", "--avatar", "demo"], ["warm"], ["load"], IDLE[:-1]]
USAGE += [[*IDLE, seconds] for seconds in ("long", "0", "-1", "nan", "inf", "3601")]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
