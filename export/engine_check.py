"""Is the engine that a network is served by whole, and of that network? What `check` says of it."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format

from compositor_backend.pack import file_sha256
from export.engine_record import RECORD_FILE, EngineRecord
from export.errors import ExportError
from export.model_configs import PRODUCTION_CONFIG, read_config

_ANEW = "python -m export engine builds it anew"


def engine_note(folder: Path) -> str:
    """A few words about the engine of the model in `folder`, none where it has none; `ExportError` if it is wrong.

    Whether this machine's GPU and TensorRT are the engine's own is not asked: they need not be the server's.
    """
    try:
        config = read_config(folder / PRODUCTION_CONFIG)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ExportError(f"{folder / PRODUCTION_CONFIG} cannot be read: {error}") from error
    record = EngineRecord.load(folder)
    served = folder / "1" / (config.default_model_filename or "model.onnx")
    if not served.is_file():
        raise ExportError(f"{folder / PRODUCTION_CONFIG} serves {served}, which is not there; {_ANEW}")
    if record is None:
        if config.backend == "tensorrt":
            raise ExportError(f"{served} has no {RECORD_FILE} that says what it was built from; {_ANEW}")
        return ""
    _check_files(folder, record)
    parity = "not compared" if record.psnr_db is None else f"{record.psnr_db:.1f} dB"
    return f", {record.form} in {record.precision} for {record.platform}, {parity}"


def _check_files(folder: Path, record: EngineRecord) -> None:
    if file_sha256(folder / "1" / "model.onnx") != record.model_sha256:
        raise ExportError(f"{folder} has the engine of another network; {_ANEW}")
    if record.file is None:
        return
    # What the record names is the exporter's own; a path of somebody else's making leads nowhere.
    engine = folder / "1" / Path(record.file).name
    if not engine.is_file() or file_sha256(engine) != record.file_sha256:
        raise ExportError(f"{engine} is damaged: its SHA-256 is not that in {RECORD_FILE}; {_ANEW}")
