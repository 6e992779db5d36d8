"""A model repository whose avatars answer at once: the ensembles' contract on three small Python models.

As in the real chain, steps that all avatars share stand before and behind a network of the avatar's own, which
batches dynamically: `ears` digests the sound around each frame, `lipsync_<id>` hands the digests on, `pen` makes
frames of them as `speaker.picture` does. For the avatar `slow`, `ears` makes the file
`gate.waiting` and waits until `gate` exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

EARS = """
import hashlib
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils

from compositor_backend import contract
from compositor_backend.errors import RequestError

GATE = {gate!r}
FRAME = contract.SAMPLES_PER_FRAME
AROUND = (contract.FRAMES_BEFORE + 1 + contract.FRAMES_AFTER) * FRAME


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = {{t.name(): t.as_numpy() for t in request.inputs()}}
        try:
            avatar = contract.parse_avatar(tensors["AVATAR"])
            indices = contract.check_frame_index(tensors["FRAME_INDEX"])
            pcm = contract.check_pcm(tensors["PCM"], len(indices))
        except RequestError as error:
            error = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        if avatar == "slow":
            open(GATE + ".waiting", "w").close()
        while avatar == "slow" and not os.path.exists(GATE):
            time.sleep(0.01)
        digests = [
            [hashlib.sha256(pcm[n * FRAME : n * FRAME + AROUND].tobytes()).hexdigest()]
            for n in range(len(indices))
        ]
        return pb_utils.InferenceResponse([pb_utils.Tensor("DIGEST", np.array(digests, dtype=object))])
"""

LIPSYNC = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        digests = [pb_utils.get_input_tensor_by_name(request, "DIGEST").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("MOUTH", digest)]) for digest in digests]
"""

GATED_LIPSYNC = """
import os
import time

import triton_python_backend_utils as pb_utils

GATE = {gate!r}


class TritonPythonModel:
    def execute(self, requests):
        while not os.path.exists(GATE):
            time.sleep(0.01)
        digests = [pb_utils.get_input_tensor_by_name(request, "DIGEST").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("MOUTH", digest)]) for digest in digests]
"""

PEN = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = {t.name(): t.as_numpy() for t in request.inputs()}
        avatar, indices, mouths = (tensors[name] for name in ("AVATAR", "FRAME_INDEX", "MOUTH"))
        jpegs = [b"%s %d %s" % (avatar[0], index, mouth) for index, mouth in zip(indices, mouths[:, 0])]
        rects = np.stack([indices, indices + 1, indices + 200, indices + 300], axis=1).astype(np.int32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("JPEG", np.array(jpegs, dtype=object)), pb_utils.Tensor("RECT", rects)]
        )
"""

AVATAR = '{ name: "AVATAR" data_type: TYPE_STRING dims: [ 1 ] }'
FRAME_INDEX = '{ name: "FRAME_INDEX" data_type: TYPE_INT32 dims: [ -1 ] }'
PCM = '{ name: "PCM" data_type: TYPE_INT16 dims: [ -1 ] }'
JPEG = '{ name: "JPEG" data_type: TYPE_STRING dims: [ -1 ] }'
RECT = '{ name: "RECT" data_type: TYPE_INT32 dims: [ -1, 4 ] }'


def strings(name: str, dims: str) -> str:
    return f'{{ name: "{name}" data_type: TYPE_STRING dims: [ {dims} ] }}'


def python_model(max_batch_size: int, inputs: list[str], outputs: list[str], queue: int = 0) -> str:
    policy = f"default_queue_policy {{ max_queue_size: {queue} }}"
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: 1000 {policy} }}" if max_batch_size else ""
    return f"""
backend: "python"
max_batch_size: {max_batch_size}
input [ {", ".join(inputs)} ]
output [ {", ".join(outputs)} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
{batching}
"""


def step(model: str, inputs: list[str], outputs: list[str]) -> str:
    maps = [f'input_map {{ key: "{name}" value: "{name}" }}' for name in inputs]
    maps += [f'output_map {{ key: "{name}" value: "{name}" }}' for name in outputs]
    return f'{{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def ensemble(avatar: str) -> str:
    steps = [
        step("ears", ["AVATAR", "FRAME_INDEX", "PCM"], ["DIGEST"]),
        step(f"lipsync_{avatar}", ["DIGEST"], ["MOUTH"]),
        step("pen", ["AVATAR", "FRAME_INDEX", "MOUTH"], ["JPEG", "RECT"]),
    ]
    return f"""
platform: "ensemble"
max_batch_size: 0
input [ {", ".join([AVATAR, FRAME_INDEX, PCM])} ]
output [ {", ".join([JPEG, RECT])} ]
ensemble_scheduling {{ step [ {", ".join(steps)} ] }}
"""


AVATARS = ("demo", "slow")


def write_repository(folder: Path, avatars: Iterable[str] = AVATARS) -> Path:
    """Writes the models; returns the gate's path. The avatar `broken` cannot be loaded."""
    gate = folder / "gate"
    ears = python_model(0, [AVATAR, FRAME_INDEX, PCM], [strings("DIGEST", "-1, 1")])
    _write(folder / "ears", ears, EARS.format(gate=str(gate)))
    lipsync = python_model(32, [strings("DIGEST", "1")], [strings("MOUTH", "1")])
    for avatar in avatars:
        _write(folder / f"lipsync_{avatar}", lipsync, LIPSYNC)
        _write(folder / f"avatar_{avatar}", ensemble(avatar))
    _write(
        folder / "pen", python_model(0, [AVATAR, FRAME_INDEX, strings("MOUTH", "-1, 1")], [JPEG, RECT]), PEN
    )
    _write(folder / "avatar_broken", 'backend: "no_such_backend"\n')
    return gate


def add_gated_avatar(folder: Path, avatar: str, queue: int) -> Path:
    """Writes an avatar whose network has a queue of so many, and waits until the gate exists; returns its path."""
    gate = folder / f"{avatar}.gate"
    lipsync = python_model(8, [strings("DIGEST", "1")], [strings("MOUTH", "1")], queue)
    _write(folder / f"lipsync_{avatar}", lipsync, GATED_LIPSYNC.format(gate=str(gate)))
    _write(folder / f"avatar_{avatar}", ensemble(avatar))
    return gate


def _write(folder: Path, config: str, model: str | None = None) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    if model is not None:
        (folder / "1" / "model.py").write_text(model)
