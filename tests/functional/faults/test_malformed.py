"""Every model of the contract, asked wrongly in every way that a seed makes up: a sentence or a right answer."""

from __future__ import annotations

import json
import random
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, serialize_byte_tensor

from compositor_backend import contract
from compositor_backend.contract import MODELS, Model
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from server.launcher import TritonServer
from tests.functional.chain.wire import ask
from tests.support import golden
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

Tensors = dict[str, NDArray[Any]]
SEEDS = range(40)
MANY_SEEDS = range(40, 400)
FRAMES = 3


def avatar(*values: bytes) -> NDArray[Any]:
    return np.array(values, object)


def good_inputs() -> dict[str, Tensors]:
    """A right request for each model, about an avatar of the 328 family."""
    rows = avatar(*[b"ann"] * FRAMES).reshape(-1, 1)
    index = np.arange(FRAMES, dtype=np.int32)
    audio = golden.features("328", FRAMES)
    windows = FRAMES + 15
    whole = {"AVATAR": avatar(b"ann"), "FRAME_INDEX": index}
    pcm = np.resize(golden.speech(), contract.pcm_samples(FRAMES))
    return {
        "avatar": {**whole, "PCM": pcm},
        "avatar_from_features": {**whole, "AUDIO": audio},
        "audio_features": {**whole, "PCM": pcm},
        "audio_encoder": {
            "AVATAR": avatar(*[b"ann"] * windows).reshape(-1, 1),
            "MEL": np.ones((windows, 1, 80, 16), np.float32),
        },
        "audio_windows": {**whole, "EMBEDDING": np.ones((windows, 512), np.float32)},
        "lipsync": {"AVATAR": rows, "FRAME_INDEX": index.reshape(-1, 1), "AUDIO": audio},
        "compositor": {
            **whole,
            "MOUTH": np.zeros((FRAMES, 320, 320, 3), np.uint8),
            "AVATAR_KEY": np.full((FRAMES, 1), golden.KEY, np.int64),
        },
        "idle_frames": whole,
        "catalog": {"OFFSET": np.array([0], np.int32), "LIMIT": np.array([2], np.int32)},
    }


GOOD = good_inputs()


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("malformed")
    settings = AvatarSettings(
        "ann",
        folder / "avatars",
        NetworkSource(golden.write_network(folder / "n.onnx", "328")),
        encoder=golden.write_encoder(folder / "e.onnx"),
    )
    build_avatar(settings, golden.GoldenFrames(), golden.boxes("328"))
    with running_triton(folder / "avatars") as server:
        yield server


# --- what is made wrong ---
IDS = (
    b"",
    b".",
    b"..",
    b"a/b",
    b"../ann",
    b"ann\x00",
    b"\xff\xfe",
    "änn".encode(),
    b"ANN",
    b"a" * 9000,
    b"nobody",
)
DTYPES = (np.int8, np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_)
NUMBERS = (np.nan, np.inf, -np.inf, -1, 2**31 - 1, -(2**31), 1e30, 0)


def other_dtype(value: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    if value.dtype == object:
        return np.zeros(value.shape, rng.choice(DTYPES))
    with np.errstate(all="ignore"):
        return value.astype(rng.choice(DTYPES))


def other_shape(value: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    shape = list(value.shape)
    position = rng.randrange(len(shape))
    change = rng.choice(("empty", "more", "less", "rank", "flat"))
    if change == "rank":
        shape.insert(position, 1)
    elif change == "flat":
        shape = [int(np.prod(shape))]
    else:
        shape[position] = {"empty": 0, "more": shape[position] + 1, "less": max(0, shape[position] - 1)}[
            change
        ]
    return np.resize(value, shape)


def other_numbers(value: NDArray[Any], rng: random.Random) -> NDArray[Any]:
    found = value.copy()
    if not found.size:
        return found
    place = rng.randrange(found.size)
    if found.dtype == object:
        found.flat[place] = rng.choice(IDS)
    else:
        with np.errstate(all="ignore"):
            found.flat[place] = np.array(rng.choice(NUMBERS), np.float64).astype(found.dtype)
    return found


CHANGES: tuple[Callable[[NDArray[Any], random.Random], NDArray[Any]], ...] = (
    other_dtype,
    other_shape,
    other_numbers,
)


def spoilt(model: Model, rng: random.Random) -> tuple[Tensors, list[str]]:
    """A request with one to three mistakes, and the outputs asked for."""
    inputs = dict(GOOD[model.name])
    for _ in range(rng.choice((1, 1, 2, 3))):
        what = rng.choice(("tensor", "tensor", "tensor", "tensor", "missing", "extra"))
        name = rng.choice(sorted(inputs)) if inputs else ""
        if what == "extra" or not inputs:
            inputs[f"EXTRA_{rng.randrange(9)}"] = np.zeros(3, np.float32)
        elif what == "missing":
            del inputs[name]
        else:
            inputs[name] = rng.choice(CHANGES)(inputs[name], rng)
    names = [tensor.name for tensor in model.outputs]
    return inputs, rng.sample(names, rng.randint(1, len(names)))


# --- asking ---
def over_http(url: str, model: str, inputs: Tensors, outputs: list[str]) -> None:
    """The same request over HTTP; an `InferenceServerException` is the server's answer to a wrong one."""
    binary, told = b"", []
    for name, value in inputs.items():
        data = (
            serialize_byte_tensor(value).item() if value.dtype == object and value.size else value.tobytes()
        )
        data = b"" if value.dtype == object and not value.size else data
        parameters = {"binary_data_size": len(data)}
        told.append({"name": name, "datatype": np_to_triton_dtype(value.dtype), "shape": list(value.shape)})
        told[-1]["parameters"] = parameters
        binary += data
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": told, "outputs": wanted}).encode()
    request = urllib.request.Request(
        f"{url}/v2/models/{model}/infer",
        head + binary,
        {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())["error"]
        raise InferenceServerException(said, str(error.code)) from error


def check(send: Callable[[], object]) -> None:
    """It is answered, or refused in a sentence without a trace of our source."""
    try:
        send()
    except InferenceServerException as error:
        said = str(error.message())
        assert said.strip()
        for token in ("Traceback", "\n", ".py", "Stub process", "StatusCode.UNAVAILABLE"):
            assert token not in said.strip(), said


def processes(triton: TritonServer) -> set[int]:
    root = psutil.Process(triton.pid)
    return {root.pid, *(child.pid for child in root.children(recursive=True))}


def answers(triton: TritonServer, model: Model) -> dict[str, list[Any]]:
    names = [tensor.name for tensor in model.outputs]
    if model.name == "catalog":
        names = ["MANIFEST"]
    found = ask(triton.grpc_url, model.name, GOOD[model.name], names)
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(SEEDS, id="some"), pytest.param(MANY_SEEDS, id="many", marks=pytest.mark.faults)],
)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_nothing_that_is_asked_does_harm(triton: TritonServer, model: Model, seeds: range) -> None:
    before, alive = answers(triton, model), processes(triton)
    for seed in seeds:
        inputs, outputs = spoilt(model, random.Random(f"{model.name} {seed}"))
        if seed % 2:
            check(lambda i=inputs, o=outputs: over_http(triton.http_url, model.name, i, o))
        else:
            check(lambda i=inputs, o=outputs: ask(triton.grpc_url, model.name, i, o))
    assert answers(triton, model) == before
    assert processes(triton) == alive
