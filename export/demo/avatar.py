"""Builds the demo's avatar: the presenter's frames, drawn, and the committed networks. Needs no torch."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from compositor_backend.errors import PackError
from compositor_backend.pack import AvatarPack
from export.avatar import STAMP_FILE, AvatarSettings, NetworkSource, Progress, build_avatar
from export.demo import presenter
from export.errors import ExportError
from export.frames import Pixels

DEMO_ID = "demo"
WEIGHTS = Path(__file__).parent / "weights"
UNET_FILE = "unet.onnx"
ENCODER_FILE = "audio_encoder.onnx"
BLEND = "feather"

MAX_WORKERS = 8
_FRAMES_AHEAD = 2
"""For each worker: enough that none waits for the pack to be written, and few enough to keep memory small."""

_ROOT = Path(__file__).parents[2]
# What the avatar is made by: if none of it changed, nor the weights, it need not be built again.
_SOURCES = (
    "compositor_backend/blend.py",
    "compositor_backend/compositor.py",
    "compositor_backend/contract.py",
    "compositor_backend/geometry.py",
    "compositor_backend/jpeg.py",
    "compositor_backend/manifest.py",
    "compositor_backend/mel.py",
    "compositor_backend/native/__init__.py",
    "compositor_backend/pack.py",
    "compositor_backend/splice.py",
    "compositor_backend/windows.py",
    "export/avatar.py",
    "export/demo/avatar.py",
    "export/demo/mouth.py",
    "export/demo/presenter*.py",
    "export/idle.py",
    "export/graph_memory.py",
    "export/pack_writer.py",
)


@dataclass(frozen=True)
class PresenterFrames:
    """The first `count` of the presenter's template frames, mouth at rest, drawn by `workers` processes."""

    count: int = presenter.N_FRAMES
    workers: int = field(default_factory=lambda: min(len(os.sched_getaffinity(0)), MAX_WORKERS))
    names: None = None
    note: None = None

    @property
    def origin(self) -> range:
        """Each template frame is a frame."""
        return range(self.count)

    @property
    def source_count(self) -> int:
        """The same as `count`."""
        return self.count

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return presenter.FRAME_SIZE

    def __iter__(self) -> Iterator[Pixels]:
        """Frames in order."""
        if self.workers == 1:
            return map(presenter.render_frame, range(self.count))
        return self._drawn_ahead()

    def _drawn_ahead(self) -> Iterator[Pixels]:
        # A fresh interpreter for each worker: forking a process that has threads can hang it.
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.workers, fresh, _stay_with_parent) as pool:
            drawn: deque[Future[Pixels]] = deque()
            try:
                for index in range(self.count):
                    drawn.append(pool.submit(presenter.render_frame, index))
                    if len(drawn) > _FRAMES_AHEAD * self.workers:
                        yield drawn.popleft().result()
                while drawn:
                    yield drawn.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)


def _stay_with_parent() -> None:
    """Leave interrupts to the parent process, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def build_demo_avatar(
    avatars: Path,
    replace: bool = False,
    progress: Progress | None = None,
    weights: Path = WEIGHTS,
    frames: PresenterFrames | None = None,
) -> bool:
    """Build the avatar ``demo`` in `avatars`; False if it is there already, of the same code and weights.

    One that was built from anything else, or is damaged, is replaced.
    """
    frames = frames or PresenterFrames()
    stamp = _stamp(weights, frames.count)
    if not replace and _is_up_to_date(avatars, stamp):
        return False
    settings = AvatarSettings(
        avatar_id=DEMO_ID,
        avatars=avatars,
        network=NetworkSource(weights / UNET_FILE),
        encoder=weights / ENCODER_FILE,
        blend=BLEND,
        replace=True,
        stamp=stamp,
    )
    build_avatar(settings, frames, [presenter.face_box(index) for index in frames.origin], progress)
    return True


def _is_up_to_date(avatars: Path, stamp: str) -> bool:
    """Whether it is there, built from the same, and its files are those that its manifest names."""
    folder = avatars / DEMO_ID
    try:
        if (folder / STAMP_FILE).read_text(encoding="utf-8") != stamp:
            return False
        with AvatarPack(folder) as pack:
            graphs = [pack.graph(name) for name in pack.manifest.graphs]
            return all(graph.path.stat().st_size == graph.nbytes for graph in graphs)
    except (OSError, UnicodeDecodeError, PackError):
        return False


def _stamp(weights: Path, frames: int) -> str:
    """A digest of what the avatar is made of: code, weights, frames; `ExportError` if there are no weights."""
    digest = hashlib.sha256(str(frames).encode())
    sources = [path for pattern in _SOURCES for path in sorted(_ROOT.glob(pattern))]
    for path in (weights / UNET_FILE, weights / ENCODER_FILE, *sources):
        if not path.is_file():
            raise ExportError(f"{path} is not there; `python -m export demo-train` makes the demo's weights")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest() + "\n"
