import pytest

from client import (
    NO_RETRY,
    RequestRefusedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerBusyError,
    ServerError,
    ServerUnavailableError,
)
from client._retry import retrying

GONE = ServerUnavailableError("gone", url="h:1")
BUSY = ServerBusyError("full", url="h:1", retry_after_s=9)


class Server:
    """Fails with each of `errors` in turn, then answers; time passes in pauses, and `answer_s` with each call."""

    def __init__(self, *errors: ServerError, answer_s: float = 0) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.slept_s: list[float] = []
        self.now_s = 1000.0
        self._answer_s = answer_s

    async def call(self) -> str:
        self.calls += 1
        self.now_s += self._answer_s
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s

    async def ask(self, policy: RetryPolicy, *, connected: bool = True, uniform: float = 0) -> str:
        return await retrying(
            self.call,
            policy,
            connected=lambda: connected,
            sleep=self.sleep,
            uniform=lambda: uniform,
            clock=lambda: self.now_s,
        )


async def test_pauses_grow_up_to_the_longest() -> None:
    server = Server(*[GONE] * 5)
    assert await server.ask(RetryPolicy(first_delay_s=0.1, factor=3, longest_delay_s=2)) == "answer"
    assert server.slept_s == pytest.approx([0.1, 0.3, 0.9, 2.0, 2.0])


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0])
async def test_jitter_shortens_pauses_by_its_share_at_most(uniform: float) -> None:
    server = Server(GONE)
    await server.ask(RetryPolicy(first_delay_s=1, jitter=0.4), uniform=uniform)
    assert server.slept_s == pytest.approx([1 - 0.4 * uniform])


@pytest.mark.parametrize(
    ("error", "connected", "limit_s"), [(GONE, True, 60), (GONE, False, 3), (BUSY, True, 1), (BUSY, False, 1)]
)
async def test_how_long_is_a_matter_of_time(error: ServerError, connected: bool, limit_s: float) -> None:
    server = Server(*[error] * 1000)
    with pytest.raises(type(error)):
        await server.ask(RetryPolicy(), connected=connected)
    assert limit_s / 2 < sum(server.slept_s) < limit_s
    assert server.calls == len(server.slept_s) + 1


async def test_the_last_error_comes_out() -> None:
    errors = [ServerUnavailableError(f"gone {n}", url="h:1") for n in range(100)]
    server = Server(*errors)
    with pytest.raises(ServerUnavailableError) as caught:
        await server.ask(RetryPolicy())
    assert caught.value is errors[server.calls - 1]


async def test_time_before_the_first_failure_does_not_count() -> None:
    """A request that hung until its server was killed is sent again as long as any other."""
    server = Server(GONE, GONE, answer_s=50)
    assert await server.ask(RetryPolicy()) == "answer"


async def test_a_server_that_comes_back_busy_gets_its_time_for_that() -> None:
    server = Server(*[GONE] * 20, *[BUSY] * 3)
    assert await server.ask(RetryPolicy(busy_s=5)) == "answer"
    assert server.calls == 24


async def test_taking_turns_at_failing_is_no_way_to_go_on_for_ever() -> None:
    server = Server(*[GONE, BUSY] * 1000)
    with pytest.raises(ServerBusyError):
        await server.ask(RetryPolicy())


@pytest.mark.parametrize(
    "error",
    [RequestRefusedError("no", url="h:1"), RequestTimeoutError("no", url="h:1")],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_else_is_sent_again(error: ServerError) -> None:
    server = Server(error)
    with pytest.raises(type(error)):
        await server.ask(RetryPolicy())
    assert server.calls == 1


@pytest.mark.parametrize("error", [GONE, BUSY])
async def test_no_retry(error: ServerError) -> None:
    server = Server(error)
    with pytest.raises(type(error)):
        await server.ask(NO_RETRY)
    assert (server.calls, server.slept_s) == (1, [])
