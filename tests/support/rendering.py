"""One frame as the published facts say it comes about: nothing here imports Lipstream.

Crop, mask, float path, paste, all anew: NumPy, Pillow and the functional layers of PyTorch, straight from a state_dict.
What packs, graphs and compositor make of the same frame is compared with this in tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

Pixels = NDArray[np.uint8]
State = Mapping[str, Tensor]
Box = tuple[int, int, int, int]


def render(
    state: State, family: str, audio_mode: str, frame: Pixels, box: Box, audio: NDArray[np.float32]
) -> Pixels:
    """`frame` (uint8 [H,W,3] RGB) with the mouth that a network draws to `audio`, in a new array.

    `state` is the network's state_dict under the published (older) names, of any widths; `family` is "328", "160" or
    "wav2lip-<S>"; `audio_mode` is "ave", "hubert", "wenet" or "mel"; `box` is x1, y1, x2, y2 in px (x2 and y2 outside);
    `audio` is float32 [*audio shape], what the network hears at this frame.

    The edge is hard: where the crop has a border that the network does not draw, a pixel of the frame is overwritten
    if all of it lies in what was drawn, and else stays as it was, to the bit.
    """
    x1, y1, x2, y2 = box
    rendered = frame.copy()
    face = frame[y1:y2, x1:x2]
    if family.startswith("wav2lip-"):
        rendered[y1:y2, x1:x2] = _render_wav2lip(state, int(family.removeprefix("wav2lip-")), face, audio)
    else:
        rendered[y1:y2, x1:x2] = _render_unet(state, _UNETS[family], audio_mode, face, audio)
    return rendered


def psnr_db(first: Pixels, second: Pixels) -> float:
    """Peak signal-to-noise ratio; infinite where both are equal."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


# --- faces ---
@dataclass(frozen=True)
class _UNet:
    crop_px: int
    black_x: range
    black_y: range
    depth: int


_UNETS = {
    "328": _UNet(328, range(5, 315), range(5, 310), depth=5),
    "160": _UNet(168, range(5, 155), range(5, 150), depth=4),
}


def _render_unet(state: State, facts: _UNet, mode: str, face: Pixels, audio: NDArray[np.float32]) -> Pixels:
    height, width = face.shape[:2]
    crop = _resized(face, facts.crop_px, facts.crop_px, Image.Resampling.BICUBIC)
    inner = crop[4:-4, 4:-4]
    masked = inner.copy()
    masked[facts.black_y.start : facts.black_y.stop, facts.black_x.start : facts.black_x.stop] = 0
    with torch.inference_mode():
        drawn = _unet(state, facts.depth, mode, _visual(inner, masked), torch.from_numpy(audio)[None])
    pasted = crop.copy()
    pasted[4:-4, 4:-4] = _bytes(drawn)
    inside = np.outer(_inside(height, facts.crop_px), _inside(width, facts.crop_px))
    return np.where(inside[..., None], _resized(pasted, width, height, Image.Resampling.BICUBIC), face)


def _inside(side: int, crop_px: int) -> NDArray[np.bool_]:
    """Which of a side's pixels lie wholly between the crop's two borders of 4 px."""
    ends = np.arange(side + 1) * crop_px / side
    inside: NDArray[np.bool_] = (ends[:-1] >= 4) & (ends[1:] <= crop_px - 4)
    return inside


def _render_wav2lip(state: State, side_px: int, face: Pixels, audio: NDArray[np.float32]) -> Pixels:
    height, width = face.shape[:2]
    crop = sampled(face, side_px, side_px)
    masked = crop.copy()
    masked[side_px // 2 :] = 0
    with torch.inference_mode():
        drawn = wav2lip(state, _visual(masked, crop), torch.from_numpy(audio)[None])
    return _resized(_bytes(drawn), width, height, Image.Resampling.BILINEAR)


def _visual(first: Pixels, second: Pixels) -> Tensor:
    """Two RGB pictures as six channels, BGR/255, float32 [1,6,S,S]."""
    both = np.concatenate([first[..., ::-1], second[..., ::-1]], axis=2).astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(both.transpose(2, 0, 1)))[None]


def _bytes(drawn: Tensor) -> Pixels:
    """What a network drew, BGR in 0…1, as RGB bytes, truncated."""
    picture: Pixels = (drawn[0].numpy() * 255).astype(np.uint8)[::-1].transpose(1, 2, 0).copy()
    return picture


def _resized(picture: Pixels, width: int, height: int, way: Image.Resampling) -> Pixels:
    """By Pillow: where it shrinks, over as many pixels more as it shrinks; cubic with a = -0.5."""
    return np.asarray(Image.fromarray(picture).resize((width, height), way))


def sampled(picture: Pixels, width: int, height: int) -> Pixels:
    """As OpenCV's INTER_LINEAR: each pixel out of the two by two nearest to its centre, however much it shrinks."""
    down, across = (_linear(*sides) for sides in ((height, picture.shape[0]), (width, picture.shape[1])))
    mixed = np.einsum("ys,stc,xt->yxc", down, picture.astype(float), across, optimize=True)
    halves_up: Pixels = np.floor(mixed + 0.5 + 1e-9).astype(np.uint8)
    return halves_up


def _linear(side: int, source: int) -> NDArray[np.float64]:
    """Weights [side, source]: triangles one source pixel wide on either side of each centre, the ends repeated."""
    centres = np.clip((np.arange(side) + 0.5) * source / side - 0.5, 0, source - 1)
    weights: NDArray[np.float64] = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(source)))
    return weights


# --- the U-Net ---
def _unet(state: State, depth: int, mode: str, picture: Tensor, audio: Tensor) -> Tensor:
    maps = [_inverted(state, "inc.inconv.0", picture)]
    for n in range(1, depth + 1):
        maps.append(_double(state, f"down{n}.maxpool_conv.0.double_conv", maps[-1], stride=2))
    y = torch.cat([maps.pop(), _heard(state, mode, audio)], dim=1)
    y = _double(state, "fuse_conv.0.double_conv", y)
    y = _double(state, "fuse_conv.1.double_conv", y)
    for n in range(1, depth + 1):
        y = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        y = _double(state, f"up{n}.conv.double_conv", torch.cat([y, maps.pop()], dim=1))
    return torch.sigmoid(functional.conv2d(y, state["outc.conv.weight"], state["outc.conv.bias"]))


def _heard(state: State, mode: str, audio: Tensor) -> Tensor:
    """The audio branch; blocks of a wenet network that keep the number of channels add their input."""
    flat = mode == "wenet"
    y = audio
    for name in ("conv1", "conv2"):
        prefix = f"audio_model.{name}"
        same = state[f"{prefix}.conv.0.weight"].shape[1] == state[f"{prefix}.conv.6.weight"].shape[0]
        y = _inverted(state, prefix, y, residual=flat and same)
    strides = {"ave": (1, 1), "hubert": (2, 2), "wenet": (1, 2)}
    y = _audio_conv(state, 3, y, strides[mode], padding=1)
    y = _inverted(state, "audio_model.conv4", y, residual=True)
    y = _audio_conv(state, 5, y, (2, 2), padding=3)
    y = _inverted(state, "audio_model.conv6", y, residual=True)
    return _inverted(state, "audio_model.conv7", y, residual=True)


def _audio_conv(state: State, n: int, x: Tensor, stride: tuple[int, int], padding: int) -> Tensor:
    weight, bias = state[f"audio_model.conv{n}.weight"], state[f"audio_model.conv{n}.bias"]
    y = functional.conv2d(x, weight, bias, stride, padding)
    return torch.relu(_normed(state, f"audio_model.bn{n}", y))


def _double(state: State, prefix: str, x: Tensor, stride: int = 1) -> Tensor:
    return _inverted(state, f"{prefix}.1", _inverted(state, f"{prefix}.0", x, stride), residual=True)


def _inverted(state: State, prefix: str, x: Tensor, stride: int = 1, residual: bool = False) -> Tensor:
    wide = functional.conv2d(x, state[f"{prefix}.conv.0.weight"])
    wide = torch.relu(_normed(state, f"{prefix}.conv.1", wide))
    deep = functional.conv2d(
        wide, state[f"{prefix}.conv.3.weight"], None, stride, padding=1, groups=wide.shape[1]
    )
    deep = torch.relu(_normed(state, f"{prefix}.conv.4", deep))
    narrow = _normed(state, f"{prefix}.conv.7", functional.conv2d(deep, state[f"{prefix}.conv.6.weight"]))
    return x + narrow if residual else narrow


def _normed(state: State, prefix: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{prefix}.{name}"].view(1, -1, 1, 1)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


# --- Wav2Lip ---
_ENCODER: Sequence[Sequence[tuple[int, int]]] = (
    ((1, 3),),
    ((2, 1), (1, 1), (1, 1)),
    ((2, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 1), (1, 1), (1, 1)),
    ((2, 1), (1, 1), (1, 1)),
    ((2, 1), (1, 1)),
    ((1, 0), (1, 0)),
)
"""Stride and padding of each block of the face encoder of 96 px."""
_HEARD = ((1, 1),) * 3 + ((3, 1),) + ((1, 1),) * 2 + ((3, 3),) + ((1, 1),) * 2 + ((3, 2),) + ((1, 1),) * 3
"""Strides of the audio encoder's blocks."""


def wav2lip(state: State, picture: Tensor, mel: Tensor) -> Tensor:
    """What the network of 96 px draws: [B,3,96,96] BGR in 0…1."""
    y = mel
    for n, stride in enumerate(_HEARD):
        residual = n in (1, 2, 4, 5, 7, 8, 10)
        y = _block(state, f"audio_encoder.{n}", y, stride, padding=0 if n >= 11 else 1, residual=residual)
    maps = [picture]
    for n, blocks in enumerate(_ENCODER):
        x = maps[-1]
        for m, (stride_px, padding) in enumerate(blocks):
            residual = m > 0 and n < 6
            x = _block(state, f"face_encoder_blocks.{n}.{m}", x, (stride_px, stride_px), padding, residual)
        maps.append(x)
    for n, blocks_there in enumerate((1, 2, 3, 3, 3, 3, 3)):
        for m in range(blocks_there):
            prefix = f"face_decoder_blocks.{n}.{m}"
            if n == 0:
                y = _block(state, prefix, y, (1, 1), padding=0)
            elif m == 0:
                y = _transposed(state, prefix, y, doubles=n > 1)
            else:
                y = _block(state, prefix, y, (1, 1), padding=1, residual=True)
        y = torch.cat([y, maps.pop()], dim=1)
    y = _block(state, "output_block.0", y, (1, 1), padding=1)
    return torch.sigmoid(functional.conv2d(y, state["output_block.1.weight"], state["output_block.1.bias"]))


def _block(
    state: State, prefix: str, x: Tensor, stride: tuple[int, int], padding: int, residual: bool = False
) -> Tensor:
    weight, bias = state[f"{prefix}.conv_block.0.weight"], state[f"{prefix}.conv_block.0.bias"]
    y = _normed(state, f"{prefix}.conv_block.1", functional.conv2d(x, weight, bias, stride, padding))
    return torch.relu(x + y if residual else y)


def _transposed(state: State, prefix: str, x: Tensor, doubles: bool) -> Tensor:
    """One pixel to three, or twice the size."""
    weight, bias = state[f"{prefix}.conv_block.0.weight"], state[f"{prefix}.conv_block.0.bias"]
    sizes = {"stride": 2, "padding": 1, "output_padding": 1} if doubles else {}
    y = functional.conv_transpose2d(x, weight, bias, **sizes)
    return torch.relu(_normed(state, f"{prefix}.conv_block.1", y))
