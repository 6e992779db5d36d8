"""An import that is killed leaves no half avatar to be seen, whenever that is, and runs through when repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from compositor_backend.manifest import Manifest
from export.atomic import STAGE_PREFIX
from export.check import check_avatars
from export.errors import ExportError
from tests.support.forked_commands import Commands, forked_commands
from tests.support.user_folders import UserFolder, go_v1

KILLED = -9
FOLDERS = {"ann"}


@pytest.fixture(scope="module")
def run() -> Iterator[Commands]:
    with forked_commands() as commands:
        yield commands


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> UserFolder:
    return go_v1(tmp_path_factory.mktemp("source") / "ann")


def command(source: UserFolder, avatars: Path, *more: str) -> tuple[str, ...]:
    return ("import", str(source.path), "--id", "ann", "--avatars", str(avatars), *more)


def seen(avatars: Path) -> set[str]:
    """What anybody sees in the folder; hidden names are nobody's business."""
    return {path.name for path in avatars.glob("[!.]*")}


def content(avatars: Path) -> dict[str, Any]:
    """The checksums of an avatar's pack, and its network's key."""
    manifest = Manifest.load(avatars / "ann")
    return {"key": manifest.network_key, **{name: entry.sha256 for name, entry in manifest.files.items()}}


def assert_nothing_half(avatars: Path) -> None:
    with suppress(ExportError):  # it says that there is no avatar
        assert [f for f in check_avatars(avatars) if not f.good and STAGE_PREFIX not in f.text] == []
    assert seen(avatars) in (set(), FOLDERS)


@pytest.fixture(scope="module")
def events(run: Commands, source: UserFolder, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Those of an import that nobody kills."""
    outcome = run(*command(source, tmp_path_factory.mktemp("whole") / "avatars"))
    assert outcome.status == 0
    assert len(outcome.events) > 100
    return outcome.events


@pytest.fixture(scope="module")
def whole(run: Commands, source: UserFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    avatars = tmp_path_factory.mktemp("expected") / "avatars"
    assert run(*command(source, avatars)).status == 0
    return content(avatars)


@pytest.mark.parametrize("tenth", range(10))
def test_killed_at_any_moment(
    run: Commands, source: UserFolder, events: list[str], whole: dict[str, Any], tenth: int, tmp_path: Path
) -> None:
    """A random moment in each tenth of what an import does."""
    moment = random.Random(tenth).randrange(tenth * len(events) // 10, (tenth + 1) * len(events) // 10)
    avatars = tmp_path / "avatars"
    killed = run(*command(source, avatars), kill_at=moment + 1)
    assert (killed.status, len(killed.events)) == (KILLED, moment + 1)
    if avatars.exists():
        assert_nothing_half(avatars)
    assert run(*command(source, avatars, "--replace")).status == 0
    assert seen(avatars) == FOLDERS
    assert list(avatars.glob(f"{STAGE_PREFIX}*")) == []
    assert all(finding.good for finding in check_avatars(avatars))
    assert content(avatars) == whole


def test_killed_while_its_folder_appears(
    run: Commands, source: UserFolder, events: list[str], whole: dict[str, Any], tmp_path: Path
) -> None:
    """At the last rename; to repeat the import, even without --replace, ends what it began."""
    renames = [number for number, event in enumerate(events) if event == "os.rename"][-len(FOLDERS) :]
    for moment in renames:
        avatars = tmp_path / f"avatars-{moment}"
        assert run(*command(source, avatars), kill_at=moment + 1).status == KILLED
        assert seen(avatars) in (set(), FOLDERS)
        assert run(*command(source, avatars)).status == 0
        assert seen(avatars) == FOLDERS
        assert content(avatars) == whole


def test_killed_while_it_replaces_another(
    run: Commands, source: UserFolder, whole: dict[str, Any], tmp_path: Path
) -> None:
    avatars = tmp_path / "avatars"
    assert run(*command(source, avatars, "--quality", "40")).status == 0
    old = content(avatars)
    events = run(*command(source, tmp_path / "other", "--quality", "40")).events
    for share in (0.3, 0.9):
        kill_at = int(share * len(events))
        assert run(*command(source, avatars, "--replace"), kill_at=kill_at).status == KILLED
        assert_nothing_half(avatars)
        assert content(avatars) in (old, whole)
    assert run(*command(source, avatars, "--replace")).status == 0
    assert content(avatars) == whole
