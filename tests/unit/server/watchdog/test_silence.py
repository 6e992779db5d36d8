"""A silence as it looks on an idle machine, and on a busy one."""

from __future__ import annotations

from collections.abc import Iterable

from server.watchdog.silence import HUNG_S, LONGEST_CPU_S, LONGEST_S, MIN_SAMPLES, Silence, Vitals

PERIOD_S = 0.25


def silence_of(vitals: Iterable[Vitals], period_s: float = PERIOD_S) -> Silence:
    silence = Silence(0.0, Vitals(0.0, wants_to_run=False))
    for index, sample in enumerate(vitals, 1):
        silence.sample(index * period_s, sample)
    return silence


def steady(seconds: float, *, cpu_share: float, wants: bool = False) -> list[Vitals]:
    """Looks at what takes that share of a CPU."""
    return [Vitals(index * PERIOD_S * cpu_share, wants) for index in range(1, round(seconds / PERIOD_S) + 1)]


def test_what_does_nothing_is_hung_after_a_while() -> None:
    assert not silence_of(steady(HUNG_S - PERIOD_S, cpu_share=0)).hung
    assert silence_of(steady(HUNG_S, cpu_share=0)).hung


def test_timers_are_no_work() -> None:
    assert silence_of(steady(HUNG_S, cpu_share=0.005)).hung


def test_what_gets_a_little_of_a_cpu_is_at_work() -> None:
    assert not silence_of(steady(10 * HUNG_S, cpu_share=0.05)).hung


def test_what_waits_for_a_cpu_or_a_disk_and_gets_none_is_not_hung() -> None:
    assert not silence_of(steady(10 * HUNG_S, cpu_share=0, wants=True)).hung


def test_what_stops_working_is_hung_a_while_later() -> None:
    working = steady(20, cpu_share=1)
    idle = [Vitals(20.0, wants_to_run=False)] * round((HUNG_S + 1) / PERIOD_S)
    assert not silence_of([*working, *idle[:10]]).hung
    assert silence_of([*working, *idle]).hung


def test_a_watch_that_hardly_ran_itself_proves_nothing() -> None:
    few = steady(MIN_SAMPLES * PERIOD_S, cpu_share=0)[:-1]
    assert not silence_of(few, period_s=HUNG_S).hung


def test_what_runs_in_circles_is_hung_in_the_end() -> None:
    assert not silence_of(steady(LONGEST_S - 1, cpu_share=1, wants=True)).hung
    assert silence_of(steady(LONGEST_S, cpu_share=1, wants=True)).hung


def test_a_long_request_on_a_busy_machine_does_not_run_in_circles() -> None:
    """32 rows of a full-width network take 16 s of CPU time, and a fifth of a CPU is theirs."""
    assert LONGEST_CPU_S > 2 * 16
    assert not silence_of(steady(80, cpu_share=0.2, wants=True)).hung
