"""What long trainings share: checkpoints that survive a kill, and a log of figures."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch


class TrainingLog:
    """Appends one JSON object a line: the stage, seconds since the start, and the given figures."""

    def __init__(self, path: Path, stage: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._stage = stage
        self._started = time.monotonic()

    def write(self, **figures: Any) -> None:
        """Add a line; floats are rounded to five digits."""
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        line = {"stage": self._stage, "seconds": round(time.monotonic() - self._started, 1), **rounded}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write whole or not at all: a killed training keeps its last checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None if there is none yet."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where that is faster than float32: with it a CPU without AVX-512 takes many times as long."""
    fast = device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
