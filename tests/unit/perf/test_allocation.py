from __future__ import annotations

import os

import pytest

from perf.allocation import children_keep_freed_memory, keeping_freed_memory


def test_children_are_told_and_the_environment_is_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    before = dict(os.environ)
    with children_keep_freed_memory():
        assert os.environ["MALLOC_MMAP_MAX_"] == "0"
        assert os.environ["MALLOC_ARENA_MAX"] == "1"
    assert dict(os.environ) == before


def test_a_process_that_keeps_memory_computes_as_before() -> None:
    for _ in range(2):
        with keeping_freed_memory():
            assert sum(len(bytes(1 << 20)) for _ in range(100)) == 100 << 20
