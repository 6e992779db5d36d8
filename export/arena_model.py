"""What onnxruntime's arena takes from the system for a run, by the rules that onnxruntime keeps.

Two things beside the values themselves make it larger. Where onnxruntime reuses memory by shape (`enable_mem_reuse`),
a value that nobody reads any more is kept until a later one of the same shape takes its place. And an arena holds
regions, in which pieces are cut and joined again, but never across two of them: where each request that finds no room
makes a region of just its size, one that is larger than all before can never use what they left.

Written after onnxruntime 1.32's allocation planner and arena; `tests/unit/export/test_graph_memory.py` compares what
comes out with what sessions take.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_PIECE_BYTES = 256
"""Sizes are rounded up to this."""
_HANDLE_BYTES = 8
"""What an arena notes down for each `_PIECE_BYTES` of a region."""
_LARGEST_BIN = 20
"""Free pieces of 256 bytes times a power of two, up to this one, lie together; larger ones lie with the last."""
_WASTED_BYTES = 128 << 20
"""A piece that is larger than wanted by this is cut in two, even if what is cut off is the smaller part."""


@dataclass(frozen=True)
class Value:
    """What a node makes: its element type (as ONNX numbers them), its shape, and its size for one row in bytes."""

    kind: int
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Step:
    """A node of a graph that has been optimised: the values that it reads and makes, constants left out.

    `view` says that what it makes is its first input, looked at in another way; `in_place` which inputs may make room
    for its first output.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    view: bool = False
    in_place: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArenaPolicy:
    """How onnxruntime is told to use memory.

    `reuse_shapes` is `SessionOptions.enable_mem_reuse`. `region_bytes` is the arena's first region
    (`initial_chunk_size_bytes` with `kNextPowerOfTwo`), None where each region is as large as the request that makes
    it (`kSameAsRequested`).
    """

    reuse_shapes: bool = True
    region_bytes: int | None = None


@dataclass(frozen=True)
class ArenaUse:
    """Bytes of one run: `live` is the most that is handed out at a time, `touched` how far the regions were used.

    `taken` is the regions themselves.
    """

    live: int
    touched: int
    taken: int

    @property
    def notes(self) -> int:
        """What the arena notes down about its regions, in the host's memory."""
        return self.taken // _PIECE_BYTES * _HANDLE_BYTES

    @property
    def host_bytes(self) -> int:
        """Memory of the process, where regions are host memory: pages that were never touched take none."""
        return self.touched + self.notes


def arena_use(
    steps: Sequence[Step], values: Mapping[str, Value], given: Iterable[str], rows: int, policy: ArenaPolicy
) -> ArenaUse:
    """What a run of `rows` rows takes; values that are not in `values`, or are `given` by the caller, take nothing."""
    taking, leaving = _plan(steps, values, frozenset(given), policy.reuse_shapes)
    arena = _Arena(policy.region_bytes)
    for take, leave in zip(taking, leaving, strict=True):
        for name in take:
            arena.take(name, values[name].nbytes * rows)
        for name in leave:
            arena.leave(name)
    return ArenaUse(arena.most_live, arena.touched, arena.taken)


# --- which value takes memory, and when ---
def _plan(
    steps: Sequence[Step], values: Mapping[str, Value], given: frozenset[str], reuse_shapes: bool
) -> tuple[list[list[str]], list[list[str]]]:
    """For each step the values that take memory before it, and those whose memory is left after it."""
    planner = _Planner(steps, values, given, reuse_shapes)
    taking = [[name for name in step.makes if planner.place(step, name)] for step in planner.walk()]
    last: dict[str, int] = {}
    for number, step in enumerate(steps):
        last.update((planner.home(name), number) for name in (*step.reads, *step.makes))
    leaving: list[list[str]] = [[] for _ in steps]
    for name in (name for names in taking for name in names):
        leaving[last[name]].append(name)
    return taking, leaving


class _Planner:
    """Decides where each value lies, as onnxruntime's allocation planner does."""

    def __init__(
        self, steps: Sequence[Step], values: Mapping[str, Value], given: frozenset[str], reuse_shapes: bool
    ) -> None:
        self._steps = steps
        self._values = values
        self._given = given
        self._reuse_shapes = reuse_shapes
        self._homes: dict[str, str] = {}
        self._unread: list[str] = []
        # A maker counts too: until it is done, nobody else may have the place.
        self._users = Counter(name for step in steps for name in (*step.reads, *step.makes))

    def home(self, name: str) -> str:
        """The value in whose place `name` lies."""
        return self._homes.get(name, name)

    def walk(self) -> Iterable[Step]:
        """Each step in turn; after it, what nobody reads any more is free."""
        for step in self._steps:
            yield step
            for name in (*step.reads, *step.makes):
                home = self.home(name)
                self._users[home] -= 1
                if self._users[home] == 0 and home not in self._given:
                    self._unread.insert(0, home)

    def place(self, step: Step, name: str) -> bool:
        """Find a place for what a step makes; True if it takes memory of its own."""
        if name in self._given or name not in self._values:
            return False
        home = self._shared(step, name)
        if home is None:
            return True
        self._homes[name] = home
        self._users[home] += self._users[name]
        return False

    def _shared(self, step: Step, name: str) -> str | None:
        if step.view:
            return self.home(step.reads[0])
        for read in step.in_place:
            home = self.home(read)
            if self._users[home] == 1 and home not in self._given and self._alike(read, name):
                return home
        return self._left(name) if self._reuse_shapes else None

    def _left(self, name: str) -> str | None:
        """The latest value of the same shape that nobody reads any more."""
        for position, unread in enumerate(self._unread):
            if self._alike(unread, name):
                return self._unread.pop(position)
        return None

    def _alike(self, first: str, second: str) -> bool:
        one, other = self._values.get(first), self._values.get(second)
        return (
            one is not None and other is not None and (one.shape, one.nbytes) == (other.shape, other.nbytes)
        )


# --- where it lies ---
@dataclass
class _Piece:
    start: int
    size: int
    owner: str | None = None


@dataclass
class _Region:
    pieces: list[_Piece]
    touched: int = 0

    def index(self, start: int) -> int:
        return bisect.bisect_left([piece.start for piece in self.pieces], start)


@dataclass
class _Arena:
    """Regions of memory, in which the smallest free piece that is large enough is taken."""

    region_bytes: int | None
    most_live: int = 0
    _live: int = 0
    _regions: list[_Region] = field(default_factory=list)
    _held: dict[str, tuple[_Region, int, int]] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        return sum(piece.size for region in self._regions for piece in region.pieces)

    @property
    def touched(self) -> int:
        return sum(region.touched for region in self._regions)

    def take(self, name: str, nbytes: int) -> None:
        size = max(1, -(-nbytes // _PIECE_BYTES)) * _PIECE_BYTES
        region, piece = self._free(size) or self._extend(size)
        if piece.size >= 2 * size or piece.size - size >= _WASTED_BYTES:
            rest = _Piece(piece.start + size, piece.size - size)
            region.pieces.insert(region.index(piece.start) + 1, rest)
            piece.size = size
        piece.owner = name
        region.touched = max(region.touched, piece.start + size)
        self._held[name] = region, piece.start, size
        self._live += size
        self.most_live = max(self.most_live, self._live)

    def leave(self, name: str) -> None:
        region, start, size = self._held.pop(name)
        position = region.index(start)
        region.pieces[position].owner = None
        self._live -= size
        for first in (position, position - 1):
            self._join(region, first)

    @staticmethod
    def _join(region: _Region, position: int) -> None:
        pair = region.pieces[position : position + 2] if position >= 0 else []
        if len(pair) == 2 and all(piece.owner is None for piece in pair):
            pair[0].size += pair[1].size
            del region.pieces[position + 1]

    def _free(self, size: int) -> tuple[_Region, _Piece] | None:
        found = [
            (_bin(piece.size), piece.size, number, piece.start, piece)
            for number, region in enumerate(self._regions)
            for piece in region.pieces
            if piece.owner is None and piece.size >= size
        ]
        if not found:
            return None
        _, _, number, _, piece = min(found, key=lambda entry: entry[:4])
        return self._regions[number], piece

    def _extend(self, size: int) -> tuple[_Region, _Piece]:
        piece = _Piece(0, size if self.region_bytes is None else self._next_region(size))
        region = _Region([piece])
        self._regions.append(region)
        return region, piece

    def _next_region(self, size: int) -> int:
        """Twice the last one's size, and twice that until it is large enough."""
        assert self.region_bytes is not None
        wanted = self.region_bytes
        while wanted < size:
            wanted *= 2
        self.region_bytes = wanted if wanted > self.region_bytes else 2 * wanted
        return wanted


def _bin(size: int) -> int:
    return min(_LARGEST_BIN, (size // _PIECE_BYTES).bit_length() - 1)
