import pytest

from client import (
    RequestRefusedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerBusyError,
    ServerError,
    ServerUnavailableError,
)
from client._retry import retrying

GONE = ServerUnavailableError("gone", url="h:1")


class Server:
    """Fails with each of `errors` in turn, then answers."""

    def __init__(self, *errors: ServerError) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.slept_s: list[float] = []

    async def call(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)


async def test_pauses_grow_up_to_the_longest() -> None:
    server = Server(*[GONE] * 5)
    policy = RetryPolicy(attempts=6, first_delay_s=0.1, factor=3, longest_delay_s=2, jitter=0)
    assert await retrying(server.call, policy, sleep=server.sleep) == "answer"
    assert server.slept_s == pytest.approx([0.1, 0.3, 0.9, 2.0, 2.0])


async def test_the_last_error_comes_out_after_all_attempts() -> None:
    last = ServerUnavailableError("still gone", url="h:1")
    server = Server(GONE, GONE, last, GONE)
    with pytest.raises(ServerUnavailableError) as caught:
        await retrying(server.call, RetryPolicy(attempts=3), sleep=server.sleep)
    assert caught.value is last
    assert server.calls == 3


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0])
async def test_jitter_shortens_pauses_by_its_share_at_most(uniform: float) -> None:
    server = Server(GONE)
    policy = RetryPolicy(first_delay_s=1, jitter=0.4)
    await retrying(server.call, policy, sleep=server.sleep, uniform=lambda: uniform)
    assert server.slept_s == pytest.approx([1 - 0.4 * uniform])


async def test_a_busy_server_is_asked_again_after_the_policys_pauses() -> None:
    server = Server(*[ServerBusyError("full", url="h:1", retry_after_s=9)] * 2)
    assert await retrying(server.call, RetryPolicy(jitter=0), sleep=server.sleep) == "answer"
    assert server.slept_s == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    "error",
    [
        RequestRefusedError("no", url="h:1"),
        RequestTimeoutError("no", url="h:1"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_nothing_else_is_sent_again(error: ServerError) -> None:
    server = Server(error)
    with pytest.raises(type(error)):
        await retrying(server.call, RetryPolicy(attempts=9), sleep=server.sleep)
    assert server.calls == 1


async def test_one_attempt_means_no_retry() -> None:
    server = Server(GONE)
    with pytest.raises(ServerUnavailableError):
        await retrying(server.call, RetryPolicy(attempts=1), sleep=server.sleep)
    assert (server.calls, server.slept_s) == (1, [])


class Clock:
    """Time that passes in pauses only."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self) -> float:
        return sum(self.server.slept_s)


async def test_patience_is_a_matter_of_time_not_of_attempts() -> None:
    server = Server(*[GONE] * 1000)
    policy = RetryPolicy(attempts=2, patience_s=15, first_delay_s=0.1, longest_delay_s=1, jitter=0)
    with pytest.raises(ServerUnavailableError):
        await retrying(server.call, policy, patient=lambda: True, sleep=server.sleep, clock=Clock(server))
    assert 14 <= sum(server.slept_s) <= 15
    assert server.calls == len(server.slept_s) + 1


async def test_a_busy_server_gets_its_attempts_and_no_patience() -> None:
    server = Server(*[ServerBusyError("full", url="h:1", retry_after_s=9)] * 9)
    with pytest.raises(ServerBusyError):
        await retrying(server.call, RetryPolicy(attempts=3), patient=lambda: True, sleep=server.sleep)
    assert server.calls == 3
