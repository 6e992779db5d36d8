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
    - `control_s`: Anything else: readiness, the list of avatars, statistics.
    """

    request_s: float = 30.0
    control_s: float = 10.0

    def __post_init__(self) -> None:
        _want_above(self, 0, "request_s", "control_s")


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after what pauses, a request is sent again when no server can answer it now.

    Requests carry no state, so each may be sent any number of times. Nothing else is retried. Of several servers all
    are tried before a pause.

    - `attempts`: Tries in all where servers are busy, or have never answered; 1 means no retry.
    - `patience_s`: How long a server that has answered before may be unavailable: one whose process died is back after
      some seconds.
    - `first_delay_s`: The pause before the second try.
    - `factor`: Each pause is this many times the one before …
    - `longest_delay_s`: … up to this.
    - `jitter`: Share of each pause, 0 to 1, that is cut at random, lest all clients come back at once.
    """

    attempts: int = 4
    patience_s: float = 20.0
    first_delay_s: float = 0.1
    factor: float = 2.0
    longest_delay_s: float = 2.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _want_from(self, 1, "attempts", "factor")
        _want_from(self, 0, "patience_s", "first_delay_s", "longest_delay_s", "jitter")
        _want(self.jitter <= 1, "jitter", self.jitter, "0 to 1")

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
        _want_above(self, 0, "time_ms", "timeout_ms")
        _want_from(self, 0, "max_pings_without_data")


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
        _want_from(self, 0, "first_frame")
        _want(
            self.first_frame <= MAX_FRAME_INDEX, "first_frame", self.first_frame, f"up to {MAX_FRAME_INDEX}"
        )
        _want_from(self, 1, "in_flight")

    def limit_frames(self, start: int) -> int:
        """Frames at most of the request that starts at frame `start` of the utterance."""
        if start == 0 and self.first_chunk_frames is not None:
            return self.first_chunk_frames
        return self.chunk_frames


def _check_chunk(name: str, frames: int) -> None:
    wanted = f"a multiple of {CHUNK_GRID_FRAMES} from {CHUNK_GRID_FRAMES} to {MAX_CHUNK_FRAMES}"
    on_grid = frames % CHUNK_GRID_FRAMES == 0 and 0 < frames <= MAX_CHUNK_FRAMES
    _want(on_grid, name, frames, wanted)


def _want_above(settings: object, low: float, *names: str) -> None:
    for name in names:
        _want(getattr(settings, name) > low, name, getattr(settings, name), f"more than {low}")


def _want_from(settings: object, low: float, *names: str) -> None:
    for name in names:
        _want(getattr(settings, name) >= low, name, getattr(settings, name), f"{low} or more")


def _want(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise SettingsError(f"{name} is {value}; {wanted} is wanted")
