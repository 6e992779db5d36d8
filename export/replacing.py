"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import ExportError


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path to write to, renamed to `out` when all went well and removed when not.

    An `ExportError` raised meanwhile speaks of `out`, where it spoke of that path.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}-", suffix=".onnx")
        os.close(descriptor)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    draft = Path(name)
    try:
        yield draft
        # mkstemp lets nobody else read; a server run by another user has to.
        draft.chmod(0o644)
        draft.replace(out)
    except ExportError as error:
        raise ExportError(str(error).replace(str(draft), str(out))) from error
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
