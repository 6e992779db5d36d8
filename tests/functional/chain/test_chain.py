"""Speech in, JPEG frames out, through a real Triton and real gRPC."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from client import LipstreamClient
from compositor_backend import contract
from compositor_backend.blend import paste
from compositor_backend.pack import AvatarPack
from compositor_backend.timeline import template_frames
from compositor_backend.windows import network_audio, utterance_windows
from export.demo import presenter
from tests.functional.chain.conftest import TEMPLATE_FRAMES, Chain
from tests.functional.chain.wire import ask, counts

pytestmark = pytest.mark.functional


async def jpegs(url: str, pcm: NDArray[np.int16], **options: Any) -> list[bytes]:
    async with LipstreamClient(url) as client:
        return [frame.jpeg async for frame in client.speak("demo", pcm, **options)]


def features(chain: Chain, pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """The demo's audio features of an utterance, float32 [frames, 32, 16, 16], computed beside the server."""
    session = onnxruntime.InferenceSession(str(chain.avatars / "demo" / "encoder.onnx"))
    (embedding,) = session.run(["EMBEDDING"], {"MEL": utterance_windows(pcm)})
    return network_audio(embedding, (32, 16, 16))


def ask_features(chain: Chain, audio: NDArray[np.float32]) -> tuple[list[bytes], NDArray[np.int32]]:
    inputs = {
        "AVATAR": np.array([b"demo"], object),
        "FRAME_INDEX": np.arange(len(audio), dtype=np.int32),
        "AUDIO": audio,
    }
    answer = ask(chain.url, "avatar_from_features", inputs, ("JPEG", "RECT"))
    return list(answer["JPEG"]), answer["RECT"]


@pytest.mark.parametrize("chunk_frames", [5, 10, 25])
async def test_the_cut_into_chunks_leaves_no_trace(
    chain: Chain, speech: NDArray[np.int16], chunk_frames: int
) -> None:
    pcm = speech[: 45 * contract.SAMPLES_PER_FRAME]
    whole = await jpegs(chain.url, pcm, chunk_frames=30)
    assert len(whole) == 45
    assert await jpegs(chain.url, pcm, chunk_frames=chunk_frames) == whole


async def test_six_clients_share_batches_and_get_what_each_gets_alone(
    chain: Chain, speech: NDArray[np.int16]
) -> None:
    step = 20 * contract.SAMPLES_PER_FRAME
    sounds = [speech[n * step : (n + 1) * step] for n in range(6)]
    alone = [await jpegs(chain.url, sound, chunk_frames=5) for sound in sounds]
    before = counts(chain.url, "lipsync")
    together = await asyncio.gather(*(jpegs(chain.url, s, chunk_frames=5, in_flight=1) for s in sounds))
    requests, _, executions = np.subtract(counts(chain.url, "lipsync"), before)
    assert together == alone
    # One request of each client is under way at a time, so a batch of more than one is of several clients.
    assert requests == 24
    assert executions < requests


async def test_speech_and_its_features_give_the_same_frames(chain: Chain, speech: NDArray[np.int16]) -> None:
    pcm = speech[: 10 * contract.SAMPLES_PER_FRAME]
    from_speech = await jpegs(chain.url, pcm, chunk_frames=10)
    from_features, _ = await asyncio.to_thread(ask_features, chain, features(chain, pcm))
    assert from_features == from_speech


def test_a_frame_is_the_drawn_mouth_pasted_into_the_template(chain: Chain, speech: NDArray[np.int16]) -> None:
    audio = features(chain, speech[16_000:])[:4]
    served, rects = ask_features(chain, audio)
    session = onnxruntime.InferenceSession(str(chain.avatars / "demo" / "network.onnx"))
    with AvatarPack(chain.avatars / "demo") as pack:
        for frame, (jpeg, rect) in enumerate(zip(served, rects, strict=True)):
            inputs = {"FACE": pack.faces[frame : frame + 1], "AUDIO": audio[frame : frame + 1]}
            (mouth,) = session.run(["MOUTH"], inputs)
            x1, y1, x2, y2 = rect
            expected = presenter.render_frame(frame).copy()
            paste(expected[y1:y2, x1:x2], mouth[0], pack.family, "hard")
            assert np.array_equal(decode(jpeg), decode(encode(expected)))
            assert np.array_equal(simplejpeg.decode_jpeg(jpeg), simplejpeg.decode_jpeg(encode(expected)))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A whole-frame encode by Pillow: no splice, no restart markers."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    return buffer.getvalue()


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return np.asarray(picture.convert("RGB"))


def ask_silent(
    chain: Chain, model: str, index: NDArray[np.int32], avatar: str = "demo"
) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {"AVATAR": np.array([avatar.encode()], object), "FRAME_INDEX": index}
    if model != "idle_frames":
        inputs["PCM"] = np.zeros(contract.pcm_samples(len(index)), np.int16)
    return ask(chain.url, model, inputs, ("JPEG", "RECT"))


@pytest.mark.parametrize("avatar", ["demo", "other"])
def test_idle_frames_are_what_the_network_draws_to_silence(chain: Chain, avatar: str) -> None:
    for index in (np.arange(25), np.arange(5) + 7, np.array([2**31 - 1, 0, 3])):
        ours, theirs = (
            ask_silent(chain, model, index.astype(np.int32), avatar) for model in ("idle_frames", "avatar")
        )
        assert list(ours["JPEG"]) == list(theirs["JPEG"])
        assert ours["RECT"].tolist() == theirs["RECT"].tolist()


async def test_silence_within_speech_runs_no_network(chain: Chain, speech: NDArray[np.int16]) -> None:
    pause = np.zeros(60 * contract.SAMPLES_PER_FRAME, np.int16)
    pcm = np.concatenate([speech[:6400], pause, speech[6400:12800]])
    frames: dict[bool, list[bytes]] = {}
    runs = {}
    for idle_frames in (False, True):
        async with LipstreamClient(chain.url, idle_frames=idle_frames) as client:
            before = counts(chain.url, "lipsync")
            stream = client.speak("demo", pcm, chunk_frames=5)
            frames[idle_frames] = [frame.jpeg async for frame in stream]
            runs[idle_frames] = counts(chain.url, "lipsync")[1] - before[1]
    assert frames[True] == frames[False]
    assert len(frames[True]) == 80
    # Of the pause, chunks that hear nothing up to 480 ms ahead and 400 ms back.
    assert 0 < runs[True] <= 80 - 30


async def test_a_session_goes_from_idling_to_speech_and_back(chain: Chain, speech: NDArray[np.int16]) -> None:
    pcm = speech[:12_800]
    async with LipstreamClient(chain.url) as client, client.session("demo", idle=True) as session:
        before = [await anext(session) for _ in range(7)]
        session.push_audio(pcm)
        session.end()
        after = [await anext(session) for _ in range(40)]
    frames = before + after
    assert [frame.index for frame in frames] == list(range(47))
    said = [frame for frame in frames if not frame.idle]
    # Two requests for idle frames were under way when the speech came: it follows on them.
    assert [frame.index for frame in said] == list(range(10, 30))
    # As if it were one recording with silence after it: the mouth comes to rest, and then the network does.
    long = np.concatenate([pcm, np.zeros(17 * contract.SAMPLES_PER_FRAME, np.int16)])
    async with LipstreamClient(chain.url, idle_frames=False) as client:
        spoken = [f.jpeg async for f in client.speak("demo", long, first_frame=10)]
    assert [frame.jpeg for frame in frames[10:]] == spoken
    idle = ask_silent(chain, "idle_frames", np.arange(25, dtype=np.int32))["JPEG"]
    assert [frame.jpeg for frame in before] == list(idle[:7])


def test_the_timeline_runs_to_and_fro(chain: Chain, speech: NDArray[np.int16]) -> None:
    index = np.array([0, TEMPLATE_FRAMES - 1, TEMPLATE_FRAMES, 2 * TEMPLATE_FRAMES - 2, 2**31 - 1], np.int32)
    inputs = {
        "AVATAR": np.array([b"demo"], object),
        "FRAME_INDEX": index,
        "PCM": np.zeros(contract.pcm_samples(len(index)), np.int16),
    }
    answer = ask(chain.url, "avatar", inputs, ("JPEG", "RECT"))
    expected = [presenter.face_box(int(n)) for n in template_frames(index, TEMPLATE_FRAMES)]
    assert answer["RECT"].tolist() == [list(box) for box in expected]
    assert expected[0] == expected[3]


async def test_frames_come_in_order_with_their_times(chain: Chain, speech: NDArray[np.int16]) -> None:
    async with LipstreamClient(chain.url) as client:
        frames = [f async for f in client.speak("demo", speech[:12_800], chunk_frames=5, in_flight=4)]
    assert [frame.index for frame in frames] == list(range(20))
    assert stamps(frame.timestamp_s for frame in frames) == [n / 25 for n in range(20)]


def stamps(values: Iterable[float]) -> list[float]:
    return [round(value, 6) for value in values]
