from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import numpy as np

from perf.mappings import mapped_pss, parse_smaps

SMAPS = """\
7f0c7bc00000-7f0c7bc28000 r--p 00000000 fe:00 1234                       /srv/a file/faces.npy
Size:                160 kB
Rss:                 120 kB
Pss:                  60 kB
Pss_Dirty:             0 kB
7f0c7bc28000-7f0c7bd00000 r--p 00028000 fe:00 1234                       /srv/a file/faces.npy
Pss:                   4 kB
7f0c7be00000-7f0c7bf00000 rw-s 00000000 00:1a 77                         /dev/shm/lipstream_1 (deleted)
Pss:                 512 kB
VmFlags: rd wr sh mr mw me ms sd
55a0c0000000-55a0c0100000 rw-p 00000000 00:00 0                          [heap]
Pss:                1000 kB
7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0
Pss:                   8 kB
""".splitlines()


def test_mappings_of_one_file_are_added_up() -> None:
    assert parse_smaps(SMAPS) == {
        "/srv/a file/faces.npy": 64 * 1024,
        "/dev/shm/lipstream_1": 512 * 1024,
        "[heap]": 1000 * 1024,
        "": 8 * 1024,
    }


def test_pages_read_of_a_mapped_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"\1" * (40 * mmap.PAGESIZE))
    mapped = np.memmap(path, np.uint8, "r")
    assert mapped.sum() == mapped.size
    assert mapped_pss(os.getpid())[str(path)] == 40 * mmap.PAGESIZE


def test_a_process_that_has_ended_holds_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert mapped_pss(process.pid) == {}
