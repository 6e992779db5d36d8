"""What onnxruntime's rules come to, on graphs small enough to follow by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from export.arena_model import ArenaPolicy, ArenaUse, Step, Value, arena_use

KB = 1024


def values(**sizes: int) -> dict[str, Value]:
    """Values of so many KB; those of one size have one shape."""
    return {name: Value(1, (size,), size * KB) for name, size in sizes.items()}


def chain(*names: str) -> list[Step]:
    """Steps that make each value of the one before."""
    return [Step((before,), (name,)) for before, name in itertools.pairwise(names)]


def use(
    steps: Sequence[Step],
    found: dict[str, Value],
    given: Sequence[str] = ("x",),
    rows: int = 1,
    reuse_shapes: bool = False,
    region_bytes: int | None = 1 << 30,
) -> ArenaUse:
    return arena_use(steps, found, given, rows, ArenaPolicy(reuse_shapes, region_bytes))


def test_only_what_is_still_read_lives() -> None:
    steps = chain("x", "a", "b", "c", "y")
    found = use(steps, values(x=64, a=32, b=16, c=8, y=64), given=("x", "y"))
    assert found.live == (32 + 16) * KB


def test_rows_make_every_value_larger() -> None:
    steps = chain("x", "a", "b", "y")
    sizes = values(x=1, a=4, b=4, y=1)
    assert use(steps, sizes, ("x", "y"), rows=5).live == 5 * use(steps, sizes, ("x", "y")).live


def test_a_value_that_is_read_again_later_lives_until_then() -> None:
    steps = [*chain("x", "a", "b", "c"), Step(("c", "a"), ("y",))]
    found = use(steps, values(x=1, a=10, b=20, c=30, y=1), given=("x", "y"))
    assert found.live == (10 + 20 + 30) * KB


def test_a_view_takes_nothing() -> None:
    steps = [Step(("x",), ("a",)), Step(("a",), ("seen",), view=True), Step(("seen",), ("y",))]
    assert use(steps, values(x=1, a=8, seen=8, y=1), given=("x", "y")).live == 8 * KB


@pytest.mark.parametrize(("others", "live"), [((), 8), (("a",), 16)])
def test_an_operation_works_in_place_where_nobody_else_reads_its_input(
    others: tuple[str, ...], live: int
) -> None:
    steps = [
        Step(("x",), ("a",)),
        Step(("a",), ("relu",), in_place=("a",)),
        Step(("relu", *others), ("y",)),
    ]
    assert use(steps, values(x=1, a=8, relu=8, y=1), given=("x", "y")).live == live * KB


def test_memory_reused_by_shape_is_kept_for_a_value_of_that_shape() -> None:
    """`a` is dead when `b2` is made, but is kept until `c`, of its shape, takes its place."""
    steps = chain("x", "a", "b", "b2", "c", "y")
    sizes = values(x=1, a=64, b=16, b2=48, c=64, y=1)
    assert use(steps, sizes, ("x", "y"), reuse_shapes=True).live == (64 + 16 + 48) * KB
    assert use(steps, sizes, ("x", "y")).live == (48 + 64) * KB


def test_regions_of_single_requests_cannot_be_joined() -> None:
    steps = chain("x", "a", "b", "c", "d", "y")
    sizes = values(x=1, a=8, b=4, c=12, d=12, y=1)
    apart = use(steps, sizes, ("x", "y"), region_bytes=None)
    assert apart.taken == (8 + 4 + 12 + 12) * KB
    together = use(steps, sizes, ("x", "y"), region_bytes=64 * KB)
    assert (together.touched, together.taken) == (24 * KB, 64 * KB)


def test_a_region_that_is_full_is_followed_by_one_twice_as_large() -> None:
    steps = [Step(("x",), ("a",)), Step(("x",), ("b",)), Step(("a", "b"), ("y",))]
    assert use(steps, values(x=1, a=6, b=6, y=1), ("x", "y"), region_bytes=8 * KB).taken == (8 + 16) * KB


def test_untouched_pages_of_a_region_count_on_a_gpu_alone() -> None:
    found = use(chain("x", "a", "y"), values(x=1, a=8, y=1), ("x", "y"), region_bytes=1024 * KB)
    assert found.taken == 1024 * KB
    assert found.host_bytes == 8 * KB + found.notes < found.taken
