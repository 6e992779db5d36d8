from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from export import atomic
from export.atomic import STAGE_PREFIX, publish, root_lock, settle_dead_stages, staging

ROOT = Path(__file__).parents[3]
NAMES = ("base", "middle", "top")


def fill(stage: Path, content: str, names: Sequence[str] = NAMES) -> None:
    for name in names:
        (stage / name / "1").mkdir(parents=True)
        (stage / name / "1" / "file").write_text(content)


def put(
    root: Path,
    content: str,
    names: Sequence[str] = NAMES,
    choose: Callable[[], Sequence[str]] | None = None,
) -> None:
    with staging(root) as stage:
        fill(stage, content, names)
        publish(root, stage, choose or (lambda: names))


def shown(root: Path) -> dict[str, str]:
    """What stands in `root`: the content of each folder."""
    return {path.parent.parent.name: path.read_text() for path in sorted(root.glob("[!.]*/1/file"))}


def stages(root: Path) -> list[Path]:
    return list(root.glob(f"{STAGE_PREFIX}*"))


def test_folders_appear_when_they_are_published(tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    with staging(root) as stage:
        fill(stage, "a")
        assert stage.parent == root
        assert stage.name[0] == "."
        assert shown(root) == {}
        publish(root, stage, lambda: NAMES)
        assert shown(root) == dict.fromkeys(NAMES, "a")
    assert shown(root) == dict.fromkeys(NAMES, "a")
    assert stages(root) == []


def test_what_stood_there_is_replaced_and_neighbours_stay(tmp_path: Path) -> None:
    put(tmp_path, "old", [*NAMES, "neighbour"])
    put(tmp_path, "new")
    assert shown(tmp_path) == {**dict.fromkeys(NAMES, "new"), "neighbour": "old"}
    assert stages(tmp_path) == []


def test_only_what_is_named_is_published(tmp_path: Path) -> None:
    with staging(tmp_path) as stage:
        fill(stage, "a")
        publish(tmp_path, stage, lambda: ["middle"])
    assert shown(tmp_path) == {"middle": "a"}


def test_nothing_stays_of_a_stage_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path) as stage:
            fill(stage, "new")
            raise ValueError("no good")

    put(tmp_path, "old")
    with pytest.raises(ValueError, match="no good"):
        fail()
    assert shown(tmp_path) == dict.fromkeys(NAMES, "old")
    assert stages(tmp_path) == []


def test_nothing_happens_if_the_choice_raises(tmp_path: Path) -> None:
    def refuse() -> list[str]:
        raise ValueError("somebody was quicker")

    put(tmp_path, "old")
    with pytest.raises(ValueError, match="quicker"):
        put(tmp_path, "new", choose=refuse)
    assert shown(tmp_path) == dict.fromkeys(NAMES, "old")
    assert stages(tmp_path) == []


STEPS = ("_move", "_exchange")
"""All that changes names goes through these; the first of them makes the stage ready."""


class Steps:
    """Sees what stands in a folder after each step; can interrupt one."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, interrupt_at: int | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        originals = {name: getattr(atomic, name) for name in STEPS}

        def step(name: str) -> Callable[[Path, Path], Any]:
            def run(one: Path, other: Path) -> Any:
                if len(self.seen) == interrupt_at:
                    for each, original in originals.items():
                        monkeypatch.setattr(atomic, each, original)
                    raise KeyboardInterrupt
                result = originals[name](one, other)
                self.seen.append(shown(root))
                return result

            return run

        for name in STEPS:
            monkeypatch.setattr(atomic, name, step(name))


def test_a_folder_that_is_replaced_is_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "old")
    steps = Steps(tmp_path, monkeypatch)
    put(tmp_path, "new")
    assert len(steps.seen) == 4
    assert all(set(seen) == set(NAMES) for seen in steps.seen)


def test_where_folders_cannot_be_exchanged_they_are_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda _one, _other: False)
    put(tmp_path, "old")
    steps = Steps(tmp_path, monkeypatch)
    put(tmp_path, "new")
    assert len(steps.seen) == 10
    assert shown(tmp_path) == dict.fromkeys(NAMES, "new")
    assert stages(tmp_path) == []


@pytest.mark.parametrize(
    ("at", "can_exchange"), [*((at, True) for at in range(4)), *((at, False) for at in range(10))]
)
def test_an_interrupt_while_publishing_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda _one, _other: False)
    put(tmp_path, "old")
    Steps(tmp_path, monkeypatch, interrupt_at=at)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, "new")
    assert shown(tmp_path) == dict.fromkeys(NAMES, "old" if at == 0 else "new")
    assert stages(tmp_path) == []


# --- processes that are killed ---
WORKER = """
import os, signal, sys
from pathlib import Path
from export import atomic
from export.atomic import publish, staging
root, kill_at, can_exchange = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "yes"
done = 0

def counted(step):
    def run(one, other):
        global done
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return step(one, other)
    return run

atomic._move = counted(atomic._move)
atomic._exchange = counted(atomic._exchange) if can_exchange else lambda one, other: False
with staging(root) as stage:
    for name in ("base", "middle", "top"):
        (stage / name / "1").mkdir(parents=True)
        (stage / name / "1" / "file").write_text("new")
    print("staged", flush=True)
    if kill_at < 0:
        sys.stdin.read()
    publish(root, stage, lambda: ("base", "middle", "top"))
"""


def worker(root: Path, kill_at: int, can_exchange: str = "yes") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), str(kill_at), can_exchange],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def living(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose stage is full and not yet published."""
    with worker(tmp_path, -1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("kill_at", "can_exchange"), [*((at, "yes") for at in range(4)), *((at, "no") for at in range(7))]
)
def test_a_killed_process_is_finished_or_undone_by_the_next(
    tmp_path: Path, kill_at: int, can_exchange: str
) -> None:
    put(tmp_path, "old")
    with worker(tmp_path, kill_at, can_exchange) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(stages(tmp_path)) == 1
    with root_lock(tmp_path):
        settle_dead_stages(tmp_path)
    assert shown(tmp_path) == dict.fromkeys(NAMES, "old" if kill_at == 0 else "new")
    assert stages(tmp_path) == []


@pytest.mark.parametrize("kill_at", range(4))
def test_the_same_where_nothing_stood_before(tmp_path: Path, kill_at: int) -> None:
    with worker(tmp_path, kill_at) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    put(tmp_path, "mine", ["other"])
    assert shown(tmp_path) == {**(dict.fromkeys(NAMES, "new") if kill_at else {}), "other": "mine"}
    assert stages(tmp_path) == []


def test_the_stage_of_a_living_process_is_left_alone(tmp_path: Path, living: subprocess.Popen[str]) -> None:
    put(tmp_path, "mine", ["other"])
    assert len(stages(tmp_path)) == 1
    living.communicate()
    assert living.returncode == 0
    assert shown(tmp_path) == {**dict.fromkeys(NAMES, "new"), "other": "mine"}
    assert stages(tmp_path) == []


def test_a_stage_whose_process_was_killed_early_is_removed(
    tmp_path: Path, living: subprocess.Popen[str]
) -> None:
    living.kill()
    living.wait()
    with staging(tmp_path) as mine:
        assert stages(tmp_path) == [mine]


def test_a_stage_without_a_lock_is_dead(tmp_path: Path) -> None:
    (tmp_path / f"{STAGE_PREFIX}killed").mkdir()
    with staging(tmp_path) as mine:
        assert stages(tmp_path) == [mine]


def test_two_stages_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    def other() -> None:
        put(tmp_path, "other", ["other"])

    with staging(tmp_path) as stage:
        fill(stage, "mine")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert shown(tmp_path) == {"other": "other"}
        publish(tmp_path, stage, lambda: NAMES)
    assert shown(tmp_path) == {**dict.fromkeys(NAMES, "mine"), "other": "other"}


def test_everything_is_on_the_disk_before_anything_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave folders in place whose files are empty."""
    synced: set[int] = set()
    original = os.fsync
    ready = atomic._mark_ready

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        original(descriptor)

    def mark_ready(stage: Path, names: Mapping[str, int]) -> None:
        missing = [path for path in stage.rglob("*") if path.stat().st_ino not in synced]
        assert missing == []
        ready(stage, names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(atomic, "_mark_ready", mark_ready)
    put(tmp_path, "new")
    assert shown(tmp_path) == dict.fromkeys(NAMES, "new")
    assert tmp_path.stat().st_ino in synced


def test_many_files_are_brought_to_the_disk_by_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    original, ready = os.sync, atomic._mark_ready

    def sync() -> None:
        seen.append(shown(next(tmp_path.glob(f"{STAGE_PREFIX}*"))))
        original()

    def mark_ready(stage: Path, names: Mapping[str, int]) -> None:
        assert seen == [dict.fromkeys(NAMES, "new")]
        ready(stage, names)

    monkeypatch.setattr(os, "sync", sync)
    monkeypatch.setattr(atomic, "_mark_ready", mark_ready)
    with staging(tmp_path) as stage:
        fill(stage, "new")
        publish(tmp_path, stage, lambda: NAMES, many=True)
    assert shown(tmp_path) == dict.fromkeys(NAMES, "new")
    assert len(seen) == 1
