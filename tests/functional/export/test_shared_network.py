"""Two avatars with one Wav2Lip network on a real Triton: speech in, each avatar's own face out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tritonclient.grpc import InferenceServerClient

from client import LipstreamClient
from compositor_backend import contract
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.frames import open_frames
from tests.functional.chain.wire import ask
from tests.support.networks import random_wav2lip, save
from tests.support.rendering import Pixels, psnr_db, render
from tests.support.triton import running_triton
from tests.support.user_folders import scene, write_pictures

pytestmark = pytest.mark.functional

FRAMES = 6
QUALITY = 95
"""At 75 a pixel that differs by one step, as libraries do, may change a whole block by several."""
BOXES = {"ann": (60, 40, 221, 239), "bob": (190, 8, 310, 150)}
FIRST_SCENE = {"ann": 0, "bob": 40}


@dataclass(frozen=True)
class Served:
    """A server of both avatars, and the weights of their network."""

    url: str
    avatars: Path
    state: dict[str, Tensor]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("shared")
    network = random_wav2lip()
    checkpoint = save({"state_dict": network.state_dict()}, folder / "wav2lip.pth")
    for avatar, box in BOXES.items():
        write_pictures(folder / avatar, "%d.png", [scene(FIRST_SCENE[avatar] + n) for n in range(FRAMES)])
        settings = AvatarSettings(avatar, folder / "avatars", NetworkSource(checkpoint), quality=QUALITY)
        build_avatar(settings, open_frames(folder / avatar), [box] * FRAMES)
    with running_triton(avatars=folder / "avatars", load=tuple(BOXES)) as server:
        yield Served(server.grpc_url, folder / "avatars", network.state_dict())


def speech(frames: int) -> NDArray[np.int16]:
    """A request's buffer of noise that grows louder."""
    rng = np.random.default_rng(0)
    loudness = np.linspace(100, 9000, contract.pcm_samples(frames))
    return np.clip(rng.standard_normal(loudness.size) * loudness, -32768, 32767).astype(np.int16)


def mel_of_frames(pcm: NDArray[np.int16], frames: int) -> NDArray[np.float32]:
    """By librosa: each frame's window begins with it, after the buffer's ten frames before."""
    signal = pcm.astype(np.float64) / 32_768
    emphasised = np.append(signal[:1], signal[1:] - 0.97 * signal[:-1])
    spectrum = librosa.stft(emphasised, n_fft=800, hop_length=200, center=True, pad_mode="constant")
    bands = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600, dtype=np.float64)
    level = 20 * np.log10(np.maximum(1e-5, bands @ np.abs(spectrum))) - 20
    mel = np.clip(8 * ((level + 100) / 100) - 4, -4, 4)
    starts = [int(3.2 * (10 + n)) for n in range(frames)]
    return np.stack([mel[None, :, start : start + 16] for start in starts]).astype(np.float32)


def request(avatar: str, frames: int = FRAMES, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    name = np.array([avatar.encode()], object)
    return {"AVATAR": name, "FRAME_INDEX": np.arange(frames, dtype=np.int32), **more}


def through_jpeg(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return simplejpeg.decode_jpeg(buffer.getvalue())


@pytest.mark.parametrize("avatar", BOXES)
def test_each_avatar_speaks_with_its_own_face(served: Served, avatar: str) -> None:
    pcm = speech(FRAMES)
    answer = ask(served.url, f"avatar_{avatar}", request(avatar, PCM=pcm), ("JPEG", "RECT"))
    x1, y1, x2, y2 = BOXES[avatar]
    assert answer["RECT"].tolist() == [[x1, y1, x2, y2]] * FRAMES
    for n, (jpeg, mel) in enumerate(zip(answer["JPEG"], mel_of_frames(pcm, FRAMES), strict=True)):
        template = scene(FIRST_SCENE[avatar] + n)
        expected = render(served.state, "wav2lip-96", "mel", template, BOXES[avatar], mel)
        found = simplejpeg.decode_jpeg(jpeg)[y1:y2, x1:x2]
        assert psnr_db(found, through_jpeg(expected)[y1:y2, x1:x2]) > 40
        assert psnr_db(found, template[y1:y2, x1:x2]) < 25


def test_ready_windows_give_the_same_frames(served: Served) -> None:
    pcm = speech(FRAMES)
    spoken = ask(served.url, "avatar_ann", request("ann", PCM=pcm))["JPEG"]
    ready = ask(served.url, "features_ann", request("ann", AUDIO=mel_of_frames(pcm, FRAMES)))["JPEG"]
    for one, other in zip(spoken, ready, strict=True):
        assert psnr_db(simplejpeg.decode_jpeg(one), simplejpeg.decode_jpeg(other)) > 45


@pytest.mark.parametrize("avatar", BOXES)
def test_idle_frames_are_those_of_silence(served: Served, avatar: str) -> None:
    silence = np.zeros(contract.pcm_samples(FRAMES), np.int16)
    drawn = ask(served.url, f"avatar_{avatar}", request(avatar, PCM=silence))["JPEG"]
    assert list(ask(served.url, "idle_frames", request(avatar))["JPEG"]) == list(drawn)


async def test_one_network_serves_both_and_outlives_either(served: Served) -> None:
    assert {path.name for path in served.avatars.glob("lipsync_*")} == {"lipsync_wav2lip-96"}
    pcm = speech(10)[: 10 * contract.SAMPLES_PER_FRAME]
    async with LipstreamClient(served.url) as client:
        before = [frame.jpeg async for frame in client.speak("ann", pcm)]
        await client.unload("bob")
        with InferenceServerClient(served.url) as triton:
            assert triton.is_model_ready("lipsync_wav2lip-96")
            assert not triton.is_model_ready("avatar_bob")
        assert [frame.jpeg async for frame in client.speak("ann", pcm)] == before
        await client.load("bob")
        assert len([frame async for frame in client.speak("bob", pcm)]) == 10
