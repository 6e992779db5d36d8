"""The client's settings: frozen values, checked when they are made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.errors import SettingsError
from compositor_backend.contract import CHUNK_GRID_FRAMES, MAX_FRAMES

DEFAULT_URL = "127.0.0.1:8001"
MAX_CHUNK_FRAMES = MAX_FRAMES - MAX_FRAMES % CHUNK_GRID_FRAMES  # 30
MAX_FRAME_INDEX = 2**31 - 1
"""The last position of an avatar's timeline: FRAME_INDEX is INT32 (994 days at 25 frames/s)."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds that one attempt of a call may take.

    - `request_s`: A request for frames. One that opens a network takes longer than others.
    - `control_s`: Anything else: readiness, the list of avatars.
    """

    request_s: float = 30.0
    control_s: float = 10.0

    def __post_init__(self) -> None:
        _check_above(self, 0, "request_s", "control_s")


@dataclass(frozen=True)
class RetryPolicy:
    """For how many seconds, and after what pauses, a request is sent again that no server can answer now.

    Requests carry no state, so each may be sent any number of times. The times count from the first failure of that
    kind; 0 means no retry. Of several servers all are tried before each pause. Nothing else is sent again.

    - `unavailable_s`: While no server is available: one whose process died is back in 2 to 15 s, and later if that goes
      on happening.
    - `connect_s`: The same as long as no server has ever answered this client, since the address may be wrong.
    - `busy_s`: While servers have more to do than they can.
    - `first_delay_s`: The pause before the second try.
    - `factor`: Each pause is this many times the one before …
    - `longest_delay_s`: … up to this.
    - `jitter`: Share of each pause, 0 to 1, that is cut at random, so that clients do not all come back at once.
    """

    unavailable_s: float = 60.0
    connect_s: float = 3.0
    busy_s: float = 1.0
    first_delay_s: float = 0.1
    factor: float = 2.0
    longest_delay_s: float = 1.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _check_from(self, 1, "factor")
        _check_from(
            self, 0, "unavailable_s", "connect_s", "busy_s", "first_delay_s", "longest_delay_s", "jitter"
        )
        _check(self.jitter <= 1, "jitter", self.jitter, "from 0 to 1")

    def delays_s(self) -> Iterator[float]:
        """The pauses between tries, without end, jitter left out."""
        delay_s = self.first_delay_s
        while True:
            yield min(delay_s, self.longest_delay_s)
            delay_s *= self.factor


@dataclass(frozen=True)
class Keepalive:
    """HTTP/2 pings that notice a dead connection while a request waits.

    The defaults suit a Triton with default settings. Pings more often, or without calls, need a server
    started with ``--grpc-http2-min-recv-ping-interval-without-data`` and
    ``--grpc-http2-max-ping-strikes`` to match: otherwise it hangs up ("too_many_pings").

    - `time_ms`: Silence on the connection before a ping.
    - `timeout_ms`: Wait for the ping's answer before the connection counts as dead.
    - `permit_without_calls`: Ping even while no request is under way.
    - `max_pings_without_data`: Pings in a row with no data between; 0 means no limit.
    """

    time_ms: int = 20_000
    timeout_ms: int = 10_000
    permit_without_calls: bool = False
    max_pings_without_data: int = 2

    def __post_init__(self) -> None:
        _check_above(self, 0, "time_ms", "timeout_ms")
        _check_from(self, 0, "max_pings_without_data")


@dataclass(frozen=True)
class StreamOptions:
    """How an utterance is cut into requests.

    - `chunk_frames`: Frames of a request, a multiple of 5 up to 30 (the last one may be shorter).
    - `first_chunk_frames`: The same for an utterance's first request, None for no difference: fewer
      means an earlier first frame, and costs one request more.
    - `first_frame`: Position of the first frame on the avatar's timeline.
    - `in_flight`: Requests under way or answered and not yet taken, at most.
    - `rects`: Whether frames carry the face box.
    - `regions`: Whether frames carry their changed part alone, in place of the whole JPEG.
    - `idle`: Whether there are frames while nobody speaks, and iteration has no end.
    """

    chunk_frames: int = 25
    first_chunk_frames: int | None = 5
    first_frame: int = 0
    in_flight: int = 4
    rects: bool = False
    regions: bool = False
    idle: bool = False

    def __post_init__(self) -> None:
        _check_chunk("chunk_frames", self.chunk_frames)
        if self.first_chunk_frames is not None:
            _check_chunk("first_chunk_frames", self.first_chunk_frames)
        _check_from(self, 0, "first_frame")
        _check(
            self.first_frame <= MAX_FRAME_INDEX, "first_frame", self.first_frame, f"up to {MAX_FRAME_INDEX}"
        )
        _check_from(self, 1, "in_flight")

    def limit_frames(self, start: int) -> int:
        """Frames at most of the request that starts at frame `start` of the utterance."""
        if start == 0 and self.first_chunk_frames is not None:
            return self.first_chunk_frames
        return self.chunk_frames


def _check_chunk(name: str, frames: int) -> None:
    expected = f"a multiple of {CHUNK_GRID_FRAMES} from {CHUNK_GRID_FRAMES} to {MAX_CHUNK_FRAMES}"
    _check(frames % CHUNK_GRID_FRAMES == 0 and 0 < frames <= MAX_CHUNK_FRAMES, name, frames, expected)


def _check_above(settings: object, low: float, *names: str) -> None:
    for name in names:
        _check(getattr(settings, name) > low, name, getattr(settings, name), f"above {low}")


def _check_from(settings: object, low: float, *names: str) -> None:
    for name in names:
        _check(getattr(settings, name) >= low, name, getattr(settings, name), f"of {low} or more")


def _check(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise SettingsError(f"expected {name} {expected}, got {value}")


NO_RETRY = RetryPolicy(unavailable_s=0, connect_s=0, busy_s=0)
"""A request is sent to each server once at most."""
