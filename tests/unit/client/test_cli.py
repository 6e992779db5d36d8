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

from client import AvatarPool, MemoryTransport, PoolFullError, PoolSettings, cli
from compositor_backend import contract
from tests.unit.client.grpc_server import Service, served
from tests.unit.client.speaker import answer_at_once, noise
from tests.unit.client.test_server_memory import CPU_ONLY, metrics_served
from tests.unit.client.test_sinks import jpeg, picture
from tests.unit.client.test_triton import strings, unused_address

DTYPES = {"INT32": np.int32, "INT16": np.int16}
PICTURES = [jpeg(picture(index)) for index in range(60)]


async def talk(request: Any, context: Any) -> Any:
    """The ensemble's answer in real JPEG, from raw protocol buffers."""
    tensors = dict(zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True))
    indices = np.frombuffer(tensors["FRAME_INDEX"], np.int32)
    contract.check_pcm(np.frombuffer(tensors["PCM"], np.int16), len(indices))
    avatar = request.model_name.removeprefix("avatar_").encode()
    assert tensors["AVATAR"] == strings(avatar)
    response = service_pb2.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="JPEG", datatype="BYTES", shape=[len(indices)])
    response.raw_output_contents.append(strings(*(PICTURES[index] for index in indices)))
    return response


class Server:
    """The service in a thread of its own, for a command that runs its own event loop."""

    def __init__(self) -> None:
        self.service = Service(talk)
        self.service.models = {
            "avatar_demo": ("READY", ""),
            "avatar_ann": ("", ""),
            "compositor": ("READY", ""),
        }
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
    for shown in ("frames/s", "time to first frame", f"{report['frames_per_s']:.1f}", "queue"):
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


def test_avatars_are_listed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["avatars", "--url", server.url]) == 0
    printed = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    assert ["ann", "not", "loaded"] in rows
    assert ["demo", "ready"] in rows
    assert "compositor" not in printed
    assert printed.startswith("2 avatars, 1 ready\n")


def many(server: Server, count: int) -> None:
    server.service.models = {f"avatar_a{number:05d}": ("", "") for number in range(count)}
    server.service.models["avatar_a00007"] = ("READY", "")
    server.service.models["avatar_a00011"] = ("UNAVAILABLE", "model.onnx is broken")


def test_of_thousands_of_avatars_those_that_are_loaded_are_listed(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    many(server, 11_000)
    assert cli.main(["avatars", "--url", server.url]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("11,000 avatars, 1 ready, 1 failed\n")
    assert "a00007" in printed
    assert "model.onnx is broken" in printed
    assert "not loaded" not in printed


@pytest.mark.parametrize(("count", "options", "listed"), [(20, [], 20), (21, [], 2), (21, ["--all"], 21)])
def test_few_or_all_are_listed_in_full(
    server: Server, capsys: pytest.CaptureFixture[str], count: int, options: list[str], listed: int
) -> None:
    many(server, count)
    assert cli.main(["avatars", "--url", server.url, *options]) == 0
    assert capsys.readouterr().out.count("a000") == listed


def test_load_and_unload(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    async def note(request: Any, context: Any) -> Any:
        asked.append(request.model_name)
        return await talk(request, context)

    server.service.handler = note
    assert cli.main(["load", "ann", "bob", "ann", "--url", server.url]) == 0
    assert sorted(asked) == ["avatar_ann", "avatar_bob"], "each has given a frame"
    assert sorted(server.service.controlled) == [("load", "avatar_ann", False), ("load", "avatar_bob", False)]
    assert sorted(capsys.readouterr().out.splitlines()) == ["ann is ready", "bob is ready"]
    assert cli.main(["unload", "ann", "bob", "--url", server.url]) == 0
    assert {("unload", "avatar_ann", False), ("unload", "avatar_bob", False)} < set(server.service.controlled)
    assert capsys.readouterr().out.splitlines() == ["ann is not loaded", "bob is not loaded"]


def test_an_avatar_that_gives_no_frame_is_not_ready(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(request: Any, context: Any) -> Any:
        await context.abort(StatusCode.INVALID_ARGUMENT, "in ensemble 'avatar_ann', it has no frames")

    server.service.handler = refuse
    assert cli.main(["load", "ann", "--url", server.url]) == 4
    printed = capsys.readouterr()
    assert "ready" not in printed.out
    assert "it has no frames" in printed.err
    assert ("unload", "avatar_ann", False) in server.service.controlled


def test_one_that_cannot_be_loaded_does_not_keep_the_others_from_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse_ann(request: Any, context: Any) -> Any:
        if request.model_name == "avatar_ann":
            await context.abort(StatusCode.INVALID_ARGUMENT, "in ensemble 'avatar_ann', it has no frames")
        await asyncio.sleep(0.1)
        return await talk(request, context)

    server.service.handler = refuse_ann
    assert cli.main(["load", "ann", "bob", "--url", server.url]) == 4
    assert capsys.readouterr().out.splitlines() == ["bob is ready"]


@pytest.mark.parametrize("command", ["load", "unload"])
def test_nothing_is_done_where_one_id_is_none(
    server: Server, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert cli.main([command, "ann", "../x", "--url", server.url]) == 1
    assert server.service.controlled == []


async def test_a_running_pools_figures(capsys: pytest.CaptureFixture[str]) -> None:
    transport = MemoryTransport(answer_at_once, models=["avatar_ann", "avatar_bob"])
    async with AvatarPool(transports=[transport], settings=PoolSettings(most=1, streams=2)) as pool:
        url = f"http://127.0.0.1:{pool.serve_figures(0)}/metrics"
        for avatar in ("ann", "ann", "bob"):
            async with pool.lease(avatar):
                pass
        async with pool.lease("bob"), pool.lease("bob"):
            with pytest.raises(PoolFullError):
                await pool.lease("bob").__aenter__()
            assert await asyncio.to_thread(cli.main, ["pool-stats", "--figures-url", url, "--json"]) == 0
            statistics = json.loads(capsys.readouterr().out)
            assert await asyncio.to_thread(cli.main, ["pool-stats", "--figures-url", url]) == 0
            printed = capsys.readouterr().out
    assert statistics.pop("mean_load_s") > 0
    assert statistics == {
        "hits": 3,
        "misses": 2,
        "hit_rate": 0.6,
        "loads": 2,
        "load_failures": 0,
        "reloads": 0,
        "evictions": 1,
        "waiting": 0,
        "streams": 2,
        "refused": 1,
    }
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines()]
    assert ["hit rate", "60.0%"] in rows
    assert ["streams", "2"] in rows


def test_figures_of_no_pool_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    away = f"http://{unused_address()}/metrics"
    with metrics_served(200, CPU_ONLY.encode()) as other:
        for url, code, sentence in (
            (away, 3, f"error: no figures can be read at {away}: "),
            (other, 4, f"error: what {other} serves are no figures of a pool"),
            ("here", 1, "error: 'here' is no metrics address"),
        ):
            assert cli.main(["pool-stats", "--figures-url", url]) == code
            error = capsys.readouterr().err
            assert error.startswith(sentence)
            assert error.count("\n") == 1


def test_the_address_can_come_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIPSTREAM_URL", server.url)
    assert cli.main(["avatars"]) == 0
    assert "demo" in capsys.readouterr().out


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
        ({"--chunk": "7"}, 1, "chunk_frames is 7; a multiple of 5"),
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
            await context.abort(StatusCode.INVALID_ARGUMENT, "in ensemble 'avatar_demo', no more today")
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
USAGE = [[], ["sing"], ["speak", "--avatar", "demo"], ["load"], ["unload"], ["pool-stats"], IDLE[:-1]]
USAGE += [[*IDLE, seconds] for seconds in ("long", "0", "-1", "nan", "inf", "3601")]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
