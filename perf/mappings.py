"""What a process's memory consists of, mapping by mapping, from the kernel's account of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S{4} [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+ *(?P<name>.*)")
_PSS = re.compile(r"Pss: +(?P<kib>\d+) kB")
DELETED = " (deleted)"


def mapped_pss(pid: int) -> dict[str, int]:
    """Proportional set size in bytes by the file mapped, or by what the kernel calls it ("[heap]"); "" has no name.

    Empty for a process that has ended.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        return parse_smaps(Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines())
    return {}


def parse_smaps(lines: Iterable[str]) -> dict[str, int]:
    """The same from the lines of a ``/proc/<pid>/smaps``; a file that was removed since keeps its name."""
    found: dict[str, int] = {}
    name = ""
    for line in lines:
        if head := _HEAD.fullmatch(line):
            name = head["name"].removesuffix(DELETED)
        elif pss := _PSS.fullmatch(line):
            found[name] = found.get(name, 0) + int(pss["kib"]) * 1024
    return found
