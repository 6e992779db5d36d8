"""`engine.json`: what engines were built from and for, and how near their pictures are to float32's."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compositor_backend.pack import file_sha256
from export.errors import ExportError

RECORD_FILE = "engine.json"
_TIMING_SUFFIX = ".timing"
"""Of the provider's notes about what it tried, which it may add to; no part of an engine."""


@dataclass(frozen=True)
class EngineRecord:
    """The engines of one network on one platform.

    `platform` is the name of their folder, `gpu`, `compute_capability` and `driver` what ``nvidia-smi`` says,
    `tensorrt` and `onnxruntime` their versions. They take 1 to `rows` rows a run. `psnr_db` (of the worst frame),
    `max_difference` (of 255) and `frames` are what was measured. `files` maps their names to their SHA-256 (hex).
    """

    platform: str
    gpu: str
    compute_capability: str
    driver: str
    tensorrt: str
    onnxruntime: str
    network_sha256: str
    rows: int
    psnr_db: float
    max_difference: int
    frames: int
    files: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> EngineRecord:
        """Read the record in a folder of engines; `ExportError` if there is none, or what is there is none."""
        path = folder / RECORD_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ExportError(f"{path} is not there") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ExportError(f"{path} cannot be read: {str(error)[:200]}") from error
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or set(value) != set(fields):
            raise ExportError(f"{path} is no record of engines: expected the fields {', '.join(fields)}")
        for name, kind in fields.items():
            if not _is(value[name], str(kind)):
                raise ExportError(f"{path}: {name}: expected {kind}, got {str(value[name])[:80]!r}")
        return cls(**value)

    def write(self, folder: Path) -> None:
        """Write the record into a folder of engines."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")

    def check(self, folder: Path) -> None:
        """Refuse (`ExportError`) a folder whose engines are not the recorded ones."""
        found = engine_files(folder)
        for name in sorted(set(self.files) ^ set(found)):
            what = "is not there" if name in self.files else "is no part of the engines"
            raise ExportError(f"{folder / name} {what}")
        for name, sha256 in found.items():
            if sha256 != self.files[name]:
                raise ExportError(f"{folder / name} is damaged: its SHA-256 is not that in {RECORD_FILE}")


def engine_files(folder: Path) -> dict[str, str]:
    """The engines in a folder, by name, with their SHA-256 (hex)."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return {
        path.name: file_sha256(path)
        for path in paths
        if path.name != RECORD_FILE and path.suffix != _TIMING_SUFFIX
    }


def _is(value: Any, kind: str) -> bool:
    if kind == "dict[str, str]":
        return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    return type(value) in kinds[kind]
