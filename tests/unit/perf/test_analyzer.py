from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from client import LipstreamClient, MemoryTransport
from client._transport import Tensors
from compositor_backend.contract import pcm_samples
from perf import analyzer
from perf.analyzer import (
    AnalyzerError,
    Target,
    link_libraries,
    read_csv,
    requests_of,
    unpack_binary,
    write_requests,
)

# Written by perf_analyzer 2.51 for the demo's ensemble and for one of its steps, 5 frames a request.
ENSEMBLE_CSV = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
1,7.76636,12,1284,2,413,124842,1834,7,127679,138807,147186,162669
"""
STEP_CSV = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv
1,7.76636,0,4,108,144,2403,549,0
"""
SPEECH = np.random.default_rng(5).integers(-9000, 9000, 640 * 33 + 100, np.int16)
DTYPES = {"FRAME_INDEX": np.int32, "PCM": np.int16}


def decoded(file: Path) -> list[dict[str, Any]]:
    """The tensors of each request, as Triton would read them."""
    requests = []
    for entry in json.loads(file.read_text())["data"]:
        tensors: dict[str, Any] = {}
        for name, tensor in entry.items():
            raw = base64.b64decode(tensor["b64"], validate=True)
            flat = np.frombuffer(raw, DTYPES[name]) if name in DTYPES else deserialize_bytes_tensor(raw)
            tensors[name] = flat.reshape(tensor["shape"])
        requests.append(tensors)
    return requests


async def sent_by_the_client(frames: int) -> list[Tensors]:
    """What the client really sends for the same speech."""
    sent: list[Tensors] = []

    async def answer(model: str, inputs: Tensors) -> dict[str, Any]:
        assert model == "avatar"
        sent.append(inputs)
        return {"JPEG": np.array([b"x"] * len(inputs["FRAME_INDEX"]), object)}

    async with LipstreamClient(transport=MemoryTransport(answer)) as client:
        stream = client.speak("ann", SPEECH, chunk_frames=frames, first_chunk_frames=None, in_flight=1)
        assert len([frame async for frame in stream]) == 34
    return sent


@pytest.mark.parametrize("frames", [5, 25])
async def test_the_file_holds_what_the_client_sends(tmp_path: Path, frames: int) -> None:
    file = write_requests(tmp_path / "in" / "requests.json", requests_of("ann", SPEECH, frames, least=1))
    full = [inputs for inputs in await sent_by_the_client(frames) if len(inputs["FRAME_INDEX"]) == frames]
    found = decoded(file)
    assert len(found) == len(full) == 34 // frames
    for ours, clients in zip(found, full, strict=True):
        assert ours.keys() == clients.keys()
        for name in ours:
            assert ours[name].dtype == clients[name].dtype
            np.testing.assert_array_equal(ours[name], clients[name])


def test_the_speech_is_said_again_further_on_the_timeline(tmp_path: Path) -> None:
    found = decoded(write_requests(tmp_path / "requests.json", requests_of("ann", SPEECH, 25, least=3)))
    assert [tensors["FRAME_INDEX"][0] for tensors in found] == [0, 34, 68]
    assert all(tensors["PCM"].shape == (pcm_samples(25),) for tensors in found)


def test_speech_shorter_than_a_request_is_refused() -> None:
    with pytest.raises(AnalyzerError, match="4 frames; 5 and more"):
        list(requests_of("ann", SPEECH[: 640 * 4], 5))


def test_an_ensembles_csv(tmp_path: Path) -> None:
    file = tmp_path / "c1.csv"
    file.write_text(ENSEMBLE_CSV)
    measured = read_csv(file)
    assert measured.concurrency == 1
    assert measured.requests_per_s == 7.76636
    assert measured.latency_ms == {50: 127.679, 90: 138.807, 95: 147.186, 99: 162.669}


@pytest.mark.parametrize(
    "text", [STEP_CSV, ENSEMBLE_CSV.splitlines()[0], ENSEMBLE_CSV.replace("7.76636", "n/a"), "", "a,b\n1,2\n"]
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c1.csv"
    file.write_text(text)
    with pytest.raises(AnalyzerError, match=r"c1\.csv"):
        read_csv(file)


def test_the_program_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "tritonclient-2.51.0-py3-none-manylinux1_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tritonclient-2.51.0.data/data/bin/perf_analyzer", "#!/bin/sh\necho here\n")
        archive.writestr("tritonclient/perf_analyzer.txt", "not this one")
    binary = unpack_binary(wheel, tmp_path)
    assert subprocess.run([binary], capture_output=True, text=True, check=True).stdout == "here\n"
    assert list(tmp_path.iterdir()) == [binary]


def test_a_wheel_without_it_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "tritonclient-2.51.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tritonclient/__init__.py", "")
    with pytest.raises(AnalyzerError, match=r"tritonclient-2.51.0-py3-none-any.whl carries no perf_analyzer"):
        unpack_binary(wheel, tmp_path)


def test_libraries_get_the_names_that_the_program_asks_for(tmp_path: Path) -> None:
    given, links = tmp_path / "nvidia_pytriton.libs", tmp_path / "lib"
    given.mkdir()
    for name in ("libb64-98cb6333.so.0d", "libcudart-09529672.so.12.6.77"):
        (given / name).write_text(name)
    for _ in range(2):
        link_libraries(links, given)
    assert (links / "libb64.so.0d").read_text() == "libb64-98cb6333.so.0d"
    assert (links / "libcudart.so.12").read_text() == "libcudart-09529672.so.12.6.77"
    (given / "libb64-98cb6333.so.0d").unlink()
    with pytest.raises(AnalyzerError, match=r"needs libb64\.so\.0d"):
        link_libraries(links, given)


def test_where_nothing_can_be_fetched_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyzer, "WHEEL", f"{tmp_path}/tritonclient-2.51.0-py3-none-any.whl")
    with pytest.raises(AnalyzerError, match="cannot be fetched") as caught:
        analyzer.fetch_binary(tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.fixture
def program(tmp_path: Path) -> analyzer.Analyzer:
    """Writes its command line and a CSV where the real one would."""
    binary = tmp_path / "perf_analyzer"
    binary.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys\n"
        "name = sys.argv[sys.argv.index('-f') + 1]\n"
        "if os.environ['LD_LIBRARY_PATH'] != os.path.join(os.path.dirname(sys.argv[0]), 'lib'): sys.exit(3)\n"
        "if '--concurrency-range=9' in sys.argv: sys.exit('failed: no server')\n"
        f"pathlib.Path(name).write_text({ENSEMBLE_CSV!r})\n"
        f"pathlib.Path('compositor_v1.' + name).write_text({STEP_CSV!r})\n"
        "pathlib.Path('arguments').write_text('\\n'.join(sys.argv[1:]))\n"
    )
    binary.chmod(0o755)
    return analyzer.Analyzer(binary, tmp_path / "lib")


def test_a_run_leaves_the_ensembles_file_and_the_steps(tmp_path: Path, program: analyzer.Analyzer) -> None:
    target = Target("avatar", "127.0.0.1:9", tmp_path / "requests.json")
    out = tmp_path / "out"
    assert program.measure(target, 1, 2.5, out).requests_per_s == 7.76636
    assert {path.name for path in out.iterdir()} == {"c1.csv", "compositor_v1.c1.csv", "arguments"}
    arguments = (out / "arguments").read_text().splitlines()
    assert {"--concurrency-range=1", "--measurement-interval=2500"} <= set(arguments)
    assert f"--input-data={tmp_path}/requests.json" in arguments
    assert not any("profile-export" in argument for argument in arguments)


def test_a_run_that_fails_says_why_and_leaves_no_older_file(
    tmp_path: Path, program: analyzer.Analyzer
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "c9.csv").write_text(ENSEMBLE_CSV)
    with pytest.raises(AnalyzerError, match="ended with 1: failed: no server"):
        program.measure(Target("avatar", "127.0.0.1:9", tmp_path / "r.json"), 9, 1, out)
    assert not list(out.iterdir())
