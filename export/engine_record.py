"""`engine.json`: what an engine was built from, for what and how well it did, kept in its model's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export.engine_settings import Batches, EngineSettings
from export.errors import ExportError

RECORD_FILE = "engine.json"
FORMAT = 1


@dataclass(frozen=True)
class Platform:
    """Where an engine runs: the GPU's name and compute capability ("9.0"), and TensorRT's version.

    All three are empty for an engine that any machine runs.
    """

    gpu: str = ""
    compute_capability: str = ""
    tensorrt: str = ""

    def __str__(self) -> str:
        if not self.tensorrt:
            return "any machine"
        return f"{self.gpu} (compute capability {self.compute_capability}), TensorRT {self.tensorrt}"


@dataclass(frozen=True)
class EngineRecord:
    """`model_sha256` is that of ``1/model.onnx``; `file`, in the model's folder, is the engine, if it is a file.

    `psnr_db` and `max_difference` (steps of 255) are None where the engine was not compared. `milliseconds` has,
    by batch, what one run of the engine took. `timing_cache` is the file with TensorRT's timings of layers.
    """

    form: str
    precision: str
    batches: str
    model_sha256: str
    platform: Platform
    built_at: str
    seconds: float
    file: str | None = None
    file_sha256: str | None = None
    psnr_db: float | None = None
    max_difference: int | None = None
    frames: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    timing_cache: str | None = None
    format: int = FORMAT

    @property
    def settings(self) -> EngineSettings:
        """What was asked for."""
        return EngineSettings(self.form, self.precision, Batches.parse(self.batches))

    def save(self, folder: Path) -> None:
        """Write it into a model's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        (folder / RECORD_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EngineRecord | None:
        """That of the model in `folder`; None where there is none, `ExportError` where it is no record."""
        path = folder / RECORD_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ExportError(f"{path} cannot be read: {error}") from error
        try:
            value = json.loads(text)
            record: EngineRecord = _read(cls, value | {"platform": _read(Platform, value["platform"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ExportError(f"{path} is no record of an engine: {error}") from error
        _check_settings(path, record)
        return record


def _check_settings(path: Path, record: EngineRecord) -> None:
    try:
        _ = record.settings
    except ExportError as error:
        raise ExportError(f"{path} is no record of an engine: {error}") from error


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "str | None": (str, type(None)),
    "float | None": (int, float, type(None)),
    "int | None": (int, type(None)),
    "Mapping[str, float]": (dict,),
    "Platform": (Platform,),
}


def _read(kind: type[Any], value: Any) -> Any:
    """An instance of a dataclass from a JSON object with its fields, none more; `ValueError` for a wrong type."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.60} is no object")
    for entry in dataclasses.fields(kind):
        wanted = _KINDS[str(entry.type)]
        if entry.name in value and not isinstance(value[entry.name], wanted):
            raise ValueError(f"{entry.name} is {value[entry.name]!r:.60}; {entry.type} is wanted")
    record = kind(**value)
    if isinstance(record, EngineRecord) and record.format != FORMAT:
        raise ValueError(f"format is {record.format}; {FORMAT} is wanted")
    return record


def reasons_to_build(
    folder: Path, settings: EngineSettings, platform: Platform, model_sha256: str, file_sha256: str | None
) -> str | None:
    """Why the engine in `folder` is to be built, None if it is up to date.

    `file_sha256` is that of the engine's file as it lies there, None if there is none.
    """
    try:
        record = EngineRecord.load(folder)
    except ExportError as error:
        return str(error)
    if record is None:
        return "there is none"
    wanted: tuple[tuple[str, object, object], ...] = (
        ("form", record.form, settings.form),
        ("precision", record.precision, settings.precision),
        ("batches", record.batches, str(settings.batches)),
        ("network", record.model_sha256[:12], model_sha256[:12]),
        ("TensorRT", record.platform.tensorrt, platform.tensorrt),
        ("GPU", record.platform.gpu, platform.gpu),
        ("compute capability", record.platform.compute_capability, platform.compute_capability),
        ("file", record.file_sha256, file_sha256),
    )
    for what, found, asked in wanted:
        if found != asked:
            return f"its {what} is {found or 'none'}, not {asked or 'none'}"
    return None
