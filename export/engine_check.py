"""Are an avatar's engines whole, and of its network? What `check` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compositor_backend.engines import ENGINES_FOLDER, engine_folder
from compositor_backend.manifest import NETWORK, NETWORK_FP16, Manifest
from export.engine_record import EngineRecord
from export.errors import ExportError

_ANEW = "python -m export engine builds them anew"


def engine_findings(folder: Path, manifest: Manifest) -> Iterator[tuple[bool, str]]:
    """Whether each folder of engines of the avatar in `folder` is in order, and a sentence about it.

    Whether this machine's GPU, TensorRT and onnxruntime are the engines' own is not asked: they need not be the
    server's. An avatar without engines has no finding.
    """
    for engines in sorted((folder / ENGINES_FOLDER).glob("[!.]*/[!.]*")):
        try:
            yield True, _check(folder, manifest, engines)
        except (ExportError, OSError) as error:
            yield False, f"{error}; {_ANEW}"


def _check(folder: Path, manifest: Manifest, engines: Path) -> str:
    record = EngineRecord.load(engines)
    served = {manifest.graphs[name].sha256 for name in (NETWORK, NETWORK_FP16) if name in manifest.graphs}
    if record.network_sha256 not in served:
        raise ExportError(f"{engines} holds the engines of another network")
    if engine_folder(folder, record.platform, record.network_sha256) != engines:
        raise ExportError(f"{engines} holds engines for {record.platform}")
    record.check(engines)
    return (
        f"engines for {record.platform}, onnxruntime {record.onnxruntime}, 1 to {record.rows} rows a run, "
        f"{record.psnr_db:.1f} dB"
    )
