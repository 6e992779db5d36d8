"""Frames of every family against a rendering of the facts that shares no code with what serves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.blend import paste
from compositor_backend.pack import AvatarPack
from export.avatar import AvatarSettings, NetworkSource, build_avatar
from export.frames import open_frames
from export.graphs import LipSyncNetwork
from export.networks.families import FAMILIES
from export.served_graph import open_session
from tests.support.networks import random_unet, random_wav2lip, save
from tests.support.rendering import psnr_db, render
from tests.support.user_folders import scene, write_pictures

# A box that is enlarged for the network and one that is reduced, the second at the frame's edge.
BOXES = {
    "square": [(61, 40, 241, 220), (222, 3, 320, 101)],
    "any": [(61, 40, 221, 239), (248, 0, 320, 97)],
}
MODES = [
    ("328", "ave"),
    ("328", "hubert"),
    ("328", "wenet"),
    ("160", "hubert"),
    ("160", "wenet"),
    ("wav2lip-96", "mel"),
]


def random_network(family: str, audio: str) -> LipSyncNetwork:
    return random_wav2lip(seed=3) if audio == "mel" else random_unet(family, audio, seed=3)


def features(shape: tuple[int, ...]) -> NDArray[np.float32]:
    loud = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    return np.clip(loud, -4, 4)


@pytest.mark.parametrize(("family", "audio"), MODES)
def test_frames_are_what_the_facts_say(tmp_path: Path, family: str, audio: str) -> None:
    network = random_network(family, audio)
    checkpoint = save(network.state_dict(), tmp_path / "7.pth")
    boxes = BOXES["square" if FAMILIES[family].geometry.square_boxes else "any"]
    settings = AvatarSettings("ann", tmp_path / "avatars", NetworkSource(checkpoint, family, audio))
    write_pictures(tmp_path / "frames", "%d.png", [scene(0), scene(1)])
    build_avatar(settings, open_frames(tmp_path / "frames"), boxes)
    sound = features(network.mode.shape)
    with AvatarPack(tmp_path / "avatars" / "ann") as pack:
        session = open_session(pack.graph("network").path)
        inputs = {"FACE": np.ascontiguousarray(pack.faces), "AUDIO": sound}
        (mouths,) = session.run(["MOUTH"], inputs)
        for n, box in enumerate(boxes):
            expected = render(network.state_dict(), family, audio, scene(n), box, sound[n])
            x1, y1, x2, y2 = box
            served = scene(n).copy()
            paste(served[y1:y2, x1:x2], mouths[n], pack.family, "hard")
            own, ours, theirs = (picture[y1:y2, x1:x2].copy() for picture in (scene(n), served, expected))
            assert psnr_db(ours, theirs) > 45
            # What the network draws is no copy of the face: to paste nothing would not pass.
            assert psnr_db(own, theirs) < 25
            served[y1:y2, x1:x2] = own
            expected[y1:y2, x1:x2] = own
            np.testing.assert_array_equal(served, expected)
            np.testing.assert_array_equal(served, scene(n))
