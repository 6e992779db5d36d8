"""Which importer a folder is for: decided by what lies in it, never guessed."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError
from export.importers import (
    go_v1,
    go_v2,
    livetalking_ultralight,
    livetalking_wav2lip,
    synctalk,
    ultralight,
)
from export.importers.base import Evidence, Importer, UndecidedError, Wanted
from export.importers.folders import contents

IMPORTERS: tuple[Importer, ...] = (
    synctalk,
    ultralight,
    go_v1,
    go_v2,
    livetalking_ultralight,
    livetalking_wav2lip,
)
FORMATS = tuple(importer.NAME for importer in IMPORTERS)


def choose(path: Path, wanted: Wanted, name: str | None = None) -> tuple[Importer, Evidence]:
    """The importer for `path` and what speaks for it; `name` (one of `FORMATS`) tries no other.

    `UndecidedError` if several fit; `ExportError` if none does, with what was looked for and what lies there.
    """
    if not path.is_dir():
        what = "is no folder" if path.exists() else "is not there"
        raise ExportError(
            f"{path} {what}; a folder of one of the formats {', '.join(FORMATS)} is wanted (for a video or pictures "
            "with a JSON of boxes there is python -m export avatar)"
        )
    if name is not None and name not in FORMATS:
        raise ExportError(f"{name[:80]!r} is no format; {', '.join(FORMATS)} are known")
    tried = [importer for importer in IMPORTERS if name in (None, importer.NAME)]
    evidence = [(importer, seen) for importer in tried if (seen := importer.detect(path, wanted)) is not None]
    fitting = [(importer, seen) for importer, seen in evidence if seen.lacks is None]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        labels = " and ".join(importer.LABEL for importer, _ in fitting)
        raise UndecidedError(f"{path} fits {labels}", "--format", [importer.NAME for importer, _ in fitting])
    raise _incomplete(path, evidence) if evidence else _unknown(path, wanted, tried)


def _incomplete(path: Path, evidence: list[tuple[Importer, Evidence]]) -> ExportError:
    labels = " or ".join(importer.LABEL for importer, _ in evidence)
    reasons = "; ".join(dict.fromkeys(seen.lacks for _, seen in evidence if seen.lacks is not None))
    return ExportError(f"{path} looks like {labels}, but {reasons}")


def _unknown(path: Path, wanted: Wanted, tried: list[Importer]) -> ExportError:
    looked = "; ".join(f"{importer.LABEL} ({importer.LAYOUT})" for importer in tried)
    within = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _fits(p, wanted, tried)]
    hint = f"; in it {' and '.join(within[:3])} would fit" if within else ""
    return ExportError(f"{path} is none of what can be imported: {looked}; there lies {contents(path)}{hint}")


def _fits(folder: Path, wanted: Wanted, tried: list[Importer]) -> bool:
    try:
        return any(importer.detect(folder, wanted) is not None for importer in tried)
    except ExportError:
        return False
