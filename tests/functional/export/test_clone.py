"""Clones on a real Triton: each answers with its own pack's frames and its own network's faces."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from client import LipstreamClient, read_audio
from compositor_backend import contract
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.clone import clone_avatars, clone_ids
from export.demo import avatar as demo
from export.demo import presenter
from export.networks.unet import LipSyncUNet
from export.onnx_export import write_unet
from tests.functional.chain.wire import ask
from tests.support.clones import SOURCE, face_colour, owner, shows, small_catalogue, source_colour
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

TEMPLATE_FRAMES = 12
FRAMES = 20
SPEECH = Path(demo.__file__).parent / "speech" / "hello.flac"


@dataclass(frozen=True)
class Served:
    """A server of the avatar ``ann`` and its clones, and of clones of a small avatar."""

    url: str
    avatars: Path
    clones: list[str]
    small: list[str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("clones")
    avatars, network = folder / "avatars", folder / "network.onnx"
    torch.manual_seed(0)
    write_unet(LipSyncUNet(widths=(4, 8, 16, 32, 64)).eval(), "0123456789abcdef" * 4, network)
    settings = AvatarSettings(
        "ann",
        avatars,
        NetworkSource(network),
        encoder=demo.WEIGHTS / demo.ENCODER_FILE,
        encoder_name="demo",
        blend="feather",
    )
    boxes = [presenter.face_box(index) for index in range(TEMPLATE_FRAMES)]
    build_avatar(settings, demo.PresenterFrames(count=TEMPLATE_FRAMES), boxes)
    clones = clone_ids("ann", 3)
    clone_avatars(avatars, "ann", clones)
    small = small_catalogue(avatars, 2)
    with running_triton(avatars=avatars, load=["ann", *clones, *small]) as server:
        yield Served(server.grpc_url, avatars, clones, small)


@pytest.fixture(scope="module")
def speech() -> NDArray[np.int16]:
    """The buffer of a request for `FRAMES` frames, from the middle of the demo's sentence."""
    return read_audio(SPEECH).pcm()[8_000:][: contract.pcm_samples(FRAMES)]


def speak(
    url: str, avatar_id: str, pcm: NDArray[np.int16], ensemble: str | None = None
) -> tuple[list[bytes], NDArray[np.int32]]:
    inputs: dict[str, NDArray[Any]] = {
        "AVATAR": np.array([avatar_id.encode()], object),
        "FRAME_INDEX": np.arange(FRAMES, dtype=np.int32),
        "PCM": pcm,
    }
    answer = ask(url, f"avatar_{ensemble or avatar_id}", inputs, ("JPEG", "RECT"))
    return list(answer["JPEG"]), answer["RECT"]


def test_each_clone_answers_with_its_own_frames_and_its_own_tint(
    served: Served, speech: NDArray[np.int16]
) -> None:
    plain, rects = speak(served.url, "ann", speech)
    colours = [face_colour(jpeg, rect) for jpeg, rect in zip(plain, rects, strict=True)]
    assert {owner(jpeg) for jpeg in plain} == {""}
    for avatar_id in served.clones:
        frames, places = speak(served.url, avatar_id, speech)
        assert places.tolist() == rects.tolist()
        for jpeg, rect, colour in zip(frames, rects, colours, strict=True):
            assert [name for name in served.clones if shows(name, jpeg, rect, colour)] == [avatar_id]


@pytest.mark.parametrize("loudness", [0, 300, 20_000])
def test_clones_of_the_small_avatar_are_told_by_any_sound(served: Served, loudness: int) -> None:
    noise = np.random.default_rng(0).normal(0, loudness, contract.pcm_samples(FRAMES))
    pcm = np.clip(noise, -32_768, 32_767).astype(np.int16)
    colour = source_colour(served.avatars)
    for avatar_id in served.small:
        for jpeg, rect in zip(*speak(served.url, avatar_id, pcm), strict=True):
            assert [name for name in served.small if shows(name, jpeg, rect, colour)] == [avatar_id]


def test_a_clone_is_not_drawn_by_another_ones_network(served: Served, speech: NDArray[np.int16]) -> None:
    first, second = served.clones[:2]
    for avatar_id, ensemble in ((first, second), (first, "ann"), ("ann", first), (first, served.small[0])):
        with pytest.raises(InferenceServerException, match=r"AVATAR_KEY is .* is wanted"):
            speak(served.url, avatar_id, speech, ensemble)


async def test_the_client_has_a_clones_pauses_drawn_by_its_network(served: Served) -> None:
    """There are no idle frames of it to be shown instead."""
    colour = source_colour(served.avatars)
    avatar_id = served.small[1]
    async with LipstreamClient(served.url) as client:
        silence = np.zeros(50 * contract.SAMPLES_PER_FRAME, np.int16)
        frames = [frame async for frame in client.speak(avatar_id, silence, rects=True)]
        assert len(frames) == 50
        for frame in frames:
            assert shows(avatar_id, frame.jpeg, frame.rect, colour)


def test_clones_go_on_when_the_first_of_them_and_the_source_are_gone(
    served: Served, speech: NDArray[np.int16]
) -> None:
    """They are loaded by a server of their own, from what is left."""
    before = speak(served.url, served.small[1], speech)[0]
    for gone in (SOURCE, served.small[0]):
        for model in ("avatar", "features", "lipsync"):
            shutil.rmtree(served.avatars / f"{model}_{gone}")
    with running_triton(avatars=served.avatars, load=[served.small[1]]) as server:
        assert speak(server.grpc_url, served.small[1], speech)[0] == before
