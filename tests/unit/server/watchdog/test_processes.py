from __future__ import annotations

from dataclasses import replace

import pytest

from server.launcher import TRITON
from server.processes import Process
from server.watchdog.processes import STOPPED_S, ProcessWatch

NAMES = {9: TRITON, 10: "compositor", 11: "compositor", 12: "lipsync"}


class Table:
    """The machine's processes, and the time."""

    def __init__(self) -> None:
        self.processes = {pid: Process(pid, 1, "S", "stub", cpu_s=1.0, started=7) for pid in NAMES}
        self.now_s = 100.0
        self.watch = ProcessWatch(NAMES, clock=lambda: self.now_s, read=self.processes.get)

    def become(self, pid: int, state: str) -> None:
        self.processes[pid] = replace(self.processes[pid], state=state)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.parametrize("state", ["S", "R", "D", "t"])
def test_processes_that_are_there_are_no_problem(table: Table, state: str) -> None:
    for pid in NAMES:
        table.become(pid, state)
    table.now_s += 1000
    assert table.watch.problem() == ""


@pytest.mark.parametrize(("pid", "name"), [(9, "Triton"), (11, "compositor"), (12, "lipsync")])
def test_a_zombie_has_died(table: Table, pid: int, name: str) -> None:
    table.become(pid, "Z")
    assert name in table.watch.problem()


def test_a_process_that_is_gone_has_died(table: Table) -> None:
    del table.processes[12]
    assert "lipsync" in table.watch.problem()


def test_another_process_with_its_number_is_not_it(table: Table) -> None:
    table.processes[12] = replace(table.processes[12], started=8)
    assert "lipsync" in table.watch.problem()


def test_one_that_died_before_the_first_look_has_died(table: Table) -> None:
    del table.processes[11]
    late = ProcessWatch(NAMES, clock=lambda: table.now_s, read=table.processes.get)
    assert "compositor" in late.problem()


def test_one_that_stays_stopped_is_a_problem(table: Table) -> None:
    table.become(10, "T")
    assert table.watch.problem() == ""
    table.now_s += STOPPED_S
    assert "compositor" in table.watch.problem()


def test_one_that_goes_on_in_time_is_none(table: Table) -> None:
    for _ in range(5):
        table.become(10, "T")
        assert table.watch.problem() == ""
        table.now_s += STOPPED_S / 2
        table.become(10, "S")
        assert table.watch.problem() == ""
        table.now_s += STOPPED_S


def test_vitals_are_those_of_all_processes_of_a_name(table: Table) -> None:
    assert table.watch.vitals("compositor").cpu_s == 2.0
    assert table.watch.vitals("lipsync").cpu_s == 1.0
    del table.processes[11]
    assert table.watch.vitals("compositor").cpu_s == 1.0
    assert table.watch.vitals("nobody").cpu_s == 0.0
