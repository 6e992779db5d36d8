"""Finds faces and their landmarks, by the detector and the face mesh that MediaPipe's wheel brings with it.

MediaPipe's top package imports every solution and with them Matplotlib, Pillow and OpenCV, which would take the
places of pillow-simd and of the headless OpenCV. Only its `mediapipe.python` is opened here, which needs no more
than numpy and protobuf: that is why it is installed without its dependencies (`make install-prepare`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.frames import Pixels

Points = NDArray[np.float64]
"""float64 [468, 2]: x and y in px of the frame, numbered as in MediaPipe's canonical face model."""
N_POINTS = 468
VERSION = "0.10.21"
"""The last whose wheel holds the face mesh."""
HOW_TO_INSTALL = f"make install-prepare, or pip install --no-deps mediapipe=={VERSION}"

MIN_SCORE = 0.5
_FULL_RANGE = 1
"""The detector that looks 5 m far; the near one (2 m) misses faces of 90 px in a frame of 1280."""
_VIEW = 2.0
"""Side of the picture that the mesh is shown, in sides of the face that was detected."""
_PASSES, _FIRST_PASSES = 2, 6
"""The mesh looks where it found the face the time before: twice at each frame, which halves the trembling, and until
it has come to rest where it was shown none before."""


@dataclass(frozen=True)
class Faces:
    """What is in a frame: how many faces, and the landmarks if there is exactly one."""

    count: int
    points: Points | None = None


class FaceFinder(Protocol):
    """Finds the faces in frames that come one after another."""

    def find(self, frame: Pixels) -> Faces:
        """The faces in the next frame, uint8 [H, W, 3] RGB."""


class MediaPipeFinder:
    """MediaPipe's detector over the whole frame, then its face mesh on the face; use as a context manager.

    `ExportError` says how to install MediaPipe where it is missing.
    """

    def __init__(self) -> None:
        detection, mesh = _solutions()
        with _silence():
            self._detector = detection.FaceDetection(MIN_SCORE, _FULL_RANGE)
            self._mesh = mesh.FaceMesh(max_num_faces=1)
            self._passes = _FIRST_PASSES
            # What its threads say as they start: a first frame waits for them.
            for solution in (self._detector, self._mesh):
                solution.process(np.zeros((64, 64, 3), np.uint8))

    def __enter__(self) -> MediaPipeFinder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop MediaPipe's threads."""
        with _silence():
            self._detector.close()
            self._mesh.close()

    def find(self, frame: Pixels) -> Faces:
        """The faces in the next frame, uint8 [H, W, 3] RGB."""
        frame = np.ascontiguousarray(frame)
        with _silence():
            detections = self._detector.process(frame).detections or []
            if len(detections) != 1:
                self._passes = _FIRST_PASSES
                return Faces(len(detections))
            points = self._landmarks(frame, detections[0].location_data.relative_bounding_box)
        return Faces(0) if points is None else Faces(1, points)

    def _landmarks(self, frame: Pixels, face: Any) -> Points | None:
        """The landmarks of the face in a box of shares of the frame; None if the mesh sees no face there."""
        height, width = frame.shape[:2]
        side = max(2, round(_VIEW * max(face.width * width, face.height * height)))
        left = round((face.xmin + face.width / 2) * width - side / 2)
        top = round((face.ymin + face.height / 2) * height - side / 2)
        view = cut_out(frame, left, top, side)
        for _ in range(self._passes):
            found = self._mesh.process(view).multi_face_landmarks
        self._passes = _PASSES if found else _FIRST_PASSES
        if not found:
            return None
        shares = np.array([(point.x, point.y) for point in found[0].landmark])
        points: Points = shares * side + (left, top)
        return points


def cut_out(frame: Pixels, left: int, top: int, side: int) -> Pixels:
    """The square of `side` px whose upper left corner is there, black where it is outside of the frame."""
    height, width = frame.shape[:2]
    view = np.zeros((side, side, 3), np.uint8)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 < x2 and y1 < y2:
        view[y1 - top : y2 - top, x1 - left : x2 - left] = frame[y1:y2, x1:x2]
    return view


def _solutions() -> tuple[Any, Any]:
    """MediaPipe's modules of face detection and face mesh."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(f"this needs MediaPipe {VERSION}: {HOW_TO_INSTALL}")
    folder = Path(spec.submodule_search_locations[0])
    hollow = {"mediapipe": folder, "mediapipe.python.solutions": folder / "python" / "solutions"}
    try:
        with _silence(), _hollow_packages(hollow):
            detection = importlib.import_module("mediapipe.python.solutions.face_detection")
            mesh = importlib.import_module("mediapipe.python.solutions.face_mesh")
    except ModuleNotFoundError as error:
        missing = error.name or ""
        raise ExportError(
            f"MediaPipe lacks {missing} here; version {VERSION} is wanted: {HOW_TO_INSTALL}"
        ) from error
    except ImportError as error:
        raise ExportError(f"MediaPipe cannot be loaded: {error}") from error
    return detection, mesh


@contextmanager
def _hollow_packages(folders: dict[str, Path]) -> Iterator[None]:
    """Packages of which submodules can be imported without what their `__init__` would import besides."""
    absent = [name for name in folders if name not in sys.modules]
    for name in absent:
        package = types.ModuleType(name)
        package.__path__ = [str(folders[name])]
        sys.modules[name] = package
    try:
        yield
    finally:
        # Whoever imports the real ones later shall get them.
        for name in absent:
            del sys.modules[name]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from the user what MediaPipe's native code says on stderr of its own matters."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
