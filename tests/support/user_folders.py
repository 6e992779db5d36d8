"""Folders as people have them: each format's names and layout, complete, with frames and weights made at random."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from export.networks.unet import LipSyncUNet
from export.networks.wav2lip import Wav2Lip
from tests.support.networks import random_unet, random_wav2lip, save

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

WIDTH, HEIGHT, FRAMES = 320, 240, 6
BOXES: list[Box] = [(104 + n, 72 - n, 202 + n, 170 - n) for n in range(FRAMES)]
"""Squares of 98 px."""


@dataclass(frozen=True)
class UserFolder:
    """An avatar as its owner has it: `network` is what its weights are, `frames` what its pictures decode to.

    `options` are what ``python -m export import`` has to be told beside the path.
    """

    format: str
    path: Path
    network: LipSyncUNet | Wav2Lip
    frames: list[Pixels]
    boxes: list[Box]
    options: tuple[str, ...] = ()


Fresh = Callable[[str], UserFolder]
"""Makes a folder by the name of its maker, for a test to change."""


# --- the parts ---
def scene(number: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """A picture of soft blobs, no two places alike, that moves a pixel a frame; some noise on top of it."""
    blobs = np.random.default_rng(3).integers(20, 236, (height // 12, width // 12, 3), dtype=np.uint8)
    large = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(number).integers(-3, 4, (height, width, 3))
    moved = np.roll(np.asarray(large, np.int16), number, axis=1)
    return np.clip(moved + noise, 0, 255).astype(np.uint8)


@cache
def network(family: str, audio: str, seed: int = 0) -> LipSyncUNet:
    """A narrow U-Net with random weights, made once."""
    return random_unet(family, audio, seed=seed)


def newer_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of newer checkpoints of the 160 family, which leave out an index."""
    return {
        re.sub(r"^(inc\.inconv|down\d\.maxpool_conv)\.0\.", r"\1.", key): value
        for key, value in state.items()
    }


def write_pictures(folder: Path, name: str, pictures: Sequence[Pixels]) -> list[Pixels]:
    """Pictures by the pattern `name`, as OpenCV writes them; what they decode to, by OpenCV."""
    folder.mkdir(parents=True)
    decoded = []
    for number, pixels in enumerate(pictures):
        path = folder / (name % number)
        assert cv2.imwrite(str(path), pixels[..., ::-1])
        decoded.append(np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]))
    return decoded


def write_landmarks(folder: Path, boxes: Sequence[Box]) -> None:
    """``{i}.lms``: 110 points with fractions, of which three make the box."""
    folder.mkdir(parents=True)
    for number, (x1, y1, x2, _y2) in enumerate(boxes):
        points = np.random.default_rng(number).uniform(60, 230, (110, 2)).round(2)
        points[1, 0], points[31, 0], points[52, 1] = x1 + 0.25, x2 + 0.5, y1 + 0.75
        lines = (f"{x} {y}" for x, y in points)
        (folder / f"{number}.lms").write_text("\n".join(lines) + "\n", encoding="ascii")


def write_video(path: Path, pictures: Sequence[Pixels], rate_hz: int = 25) -> list[Pixels]:
    """An MPEG-4 video; its frames as they come out of it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_features(folder: Path, audio: str) -> None:
    """The table of audio features that training leaves: two rows more than frames."""
    name, row = {"ave": ("ave", (512,)), "hubert": ("hu", (2, 1024)), "wenet": ("wenet", (16, 512))}[audio]
    table = np.random.default_rng(1).normal(size=(FRAMES + 2, *row)).astype(np.float32)
    np.save(folder / f"aud_{name}.npy", table)


def write_graph(path: Path, unet: LipSyncUNet) -> None:
    """The ONNX file that such systems export: float inputs ``input`` and ``audio``, one frame at a time."""
    side = unet.family.geometry.network_px
    path.parent.mkdir(parents=True)
    sample = (torch.zeros(1, 6, side, side), torch.zeros(1, *unet.mode.shape))
    names = {"input_names": ["input", "audio"], "output_names": ["output"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(unet, sample, str(path), opset_version=12, dynamo=False, **names)


def crop(frame: Pixels, box: Box, side_px: int) -> Pixels:
    """What a box cuts, at the size of a network's crop, as OpenCV resizes."""
    x1, y1, x2, y2 = box
    return cv2.resize(frame[y1:y2, x1:x2], (side_px, side_px), interpolation=cv2.INTER_LINEAR)


# --- the formats ---
def synctalk(folder: Path, audio: str = "ave") -> UserFolder:
    """SyncTalk_2D's data set with three epochs of its network, the last of which counts, and masks of a face parser."""
    unet = network("328", audio)
    frames = _dataset(folder, audio)
    save(network("328", "ave", 1).state_dict(), folder / "95.pth")
    save(network("328", "ave", 1).state_dict(), folder / "100.pth")
    save(unet.state_dict(), folder / "195.pth")
    write_pictures(folder / "parsing", "%d.png", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    return UserFolder("synctalk-2d", folder, unet, frames, BOXES)


def ultralight(folder: Path, audio: str = "hubert") -> UserFolder:
    """Ultralight's data set, its network with the optimizer's state in ``checkpoint/``."""
    unet = network("160", audio)
    frames = _dataset(folder, audio)
    (folder / "checkpoint").mkdir()
    whole = {"epoch": 60, "model": unet.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    save(whole, folder / "checkpoint" / "60.pth")
    return UserFolder("ultralight", folder, unet, frames, BOXES)


def feathertalk(folder: Path, audio: str = "wenet") -> UserFolder:
    """FeatherTalk's: newer key names, and a network elsewhere that has to be said."""
    unet = network("160", audio)
    frames = _dataset(folder / "data", audio)
    checkpoint = save(newer_names(unet.state_dict()), folder / "feather.pth")
    return UserFolder("ultralight", folder / "data", unet, frames, BOXES, ("--checkpoint", str(checkpoint)))


def go_v1(folder: Path) -> UserFolder:
    """A model folder of the Go servers: static graph, numbered PNG files, a list of rectangles."""
    unet = network("328", "ave", 2)
    frames = write_pictures(folder / "frames", "frame_%04d.png", [scene(n) for n in range(FRAMES)])
    (folder / "crop_rects.json").write_text(json.dumps(BOXES), encoding="utf-8")
    write_graph(folder / "checkpoint" / "model_best.onnx", unet)
    return UserFolder("go-v1", folder, unet, frames, BOXES)


def go_v2(folder: Path, rate_hz: int = 25) -> UserFolder:
    """A package of the Go servers: two videos, one of them of crops, rectangles by frame number, features, graph."""
    unet = network("328", "ave", 3)
    (folder / "cache").mkdir(parents=True)
    scenes = [scene(n) for n in range(FRAMES)]
    frames = write_video(folder / "full_body_video.mp4", scenes, rate_hz)
    crops = [crop(frame, box, 328) for frame, box in zip(scenes, BOXES, strict=True)]
    write_video(folder / "crops_328_video.mp4", crops, rate_hz)
    rectangles = {str(number): {"rect": box} for number, box in enumerate(BOXES)}
    (folder / "cache" / "crop_rectangles.json").write_text(json.dumps(rectangles), encoding="utf-8")
    write_features(folder, "ave")
    write_graph(folder / "checkpoint" / "model_best.onnx", unet)
    return UserFolder("go-v2", folder, unet, frames, BOXES)


def livetalking_ultralight(folder: Path) -> UserFolder:
    """LiveTalking's: full frames, face crops, coordinates as numpy's integers in a pickle."""
    unet = network("160", "hubert", 4)
    frames = _livetalking(folder, 168, lambda box: box)
    save(unet.state_dict(), folder / "ultralight.pth")
    return UserFolder("livetalking-ultralight", folder, unet, frames, BOXES)


@cache
def wav2lip(seed: int = 0) -> Wav2Lip:
    """A narrow Wav2Lip network with random weights, made once."""
    return random_wav2lip(seed=seed)


def livetalking_wav2lip(folder: Path) -> UserFolder:
    """LiveTalking's: the same folders with the numbers in another order, and the network where all avatars have it."""
    avatar = folder / "data" / "avatars" / "wav2lip96_avatar1"
    frames = _livetalking(avatar, 96, lambda box: (box[1], box[3], box[0], box[2]))
    (folder / "models").mkdir()
    save({"state_dict": wav2lip().state_dict(), "global_step": 7}, folder / "models" / "wav2lip.pth")
    return UserFolder("livetalking-wav2lip", avatar, wav2lip(), frames, BOXES)


def _dataset(folder: Path, audio: str) -> list[Pixels]:
    frames = write_pictures(folder / "full_body_img", "%d.jpg", [scene(n) for n in range(FRAMES)])
    write_landmarks(folder / "landmarks", BOXES)
    write_features(folder, audio)
    return frames


def _livetalking(folder: Path, face_px: int, order: Callable[[Box], Sequence[int]]) -> list[Pixels]:
    frames = write_pictures(folder / "full_imgs", "%08d.png", [scene(n) for n in range(FRAMES)])
    faces = [crop(frame, box, face_px) for frame, box in zip(frames, BOXES, strict=True)]
    write_pictures(folder / "face_imgs", "%08d.png", faces)
    coords: list[Any] = [tuple(np.array(order(box))) for box in BOXES]
    (folder / "coords.pkl").write_bytes(pickle.dumps(coords))
    return frames


MAKERS: dict[str, Callable[[Path], UserFolder]] = {
    "synctalk": synctalk,
    "synctalk_hubert": lambda folder: synctalk(folder, "hubert"),
    "synctalk_wenet": lambda folder: synctalk(folder, "wenet"),
    "ultralight": ultralight,
    "feathertalk": feathertalk,
    "go_v1": go_v1,
    "go_v2": go_v2,
    "livetalking_ultralight": livetalking_ultralight,
    "livetalking_wav2lip": livetalking_wav2lip,
}
"""One folder of each format, and of each audio mode of the 328 family, by the id of the avatar that it becomes."""
