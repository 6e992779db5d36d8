"""An avatar whose files are damaged while it is asked for: right frames or a clear error, and no harm to another."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from compositor_backend import contract
from tests.functional.chain.conftest import Chain
from tests.functional.chain.wire import ask
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

FRAMES = 3
IDLE_S = 3
PATIENCE_S = 60.0
DAMAGED = r"AVATAR 'demo' is damaged on this server \(fault \w{12}\); its log says what is wrong"
GONE = "AVATAR 'demo' is not on this server"
"""While it is imported again there is a moment without it."""

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def chain(avatars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """A server with avatars of its own, which closes packs soon."""
    own = tmp_path_factory.mktemp("damaged") / "avatars"
    shutil.copytree(avatars, own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIPSTREAM_PACK_IDLE_S", str(IDLE_S))
        with running_triton(own) as server:
            yield Chain(server, own)


@pytest.fixture
def folder(chain: Chain, avatars: Path) -> Iterator[Path]:
    """The folder of the avatar to be damaged, whole again afterwards."""
    yield chain.avatars / "demo"
    import_again(chain, avatars)


def import_again(chain: Chain, avatars: Path) -> None:
    """Exchange the folder for a new one, as an importer does."""
    stage = chain.avatars / ".staging-again"
    shutil.copytree(avatars / "demo", stage / "new")
    (chain.avatars / "demo").rename(stage / "old")
    (stage / "new").rename(chain.avatars / "demo")
    shutil.rmtree(stage)


# --- asking ---
def inputs(avatar_id: str, model: str) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {
        "AVATAR": np.array([avatar_id.encode()], object),
        "FRAME_INDEX": np.arange(FRAMES, dtype=np.int32),
    }
    if model != "idle_frames":
        tensors["PCM"] = np.zeros(contract.pcm_samples(FRAMES), np.int16)
    return tensors


def frames(chain: Chain, avatar_id: str, model: str | None = None) -> list[bytes]:
    model = model or "avatar"
    return list(ask(chain.url, model, inputs(avatar_id, model))["JPEG"])


def refusal(chain: Chain, model: str = "avatar") -> str:
    with pytest.raises(InferenceServerException) as caught:
        frames(chain, "demo", model)
    assert "INTERNAL" in str(caught.value.status())
    return str(caught.value.message())


@dataclass
class Asked:
    """What came of asking for an avatar again and again: answers that were right, errors, and whatever is neither."""

    right: int
    errors: list[str]
    wrong: list[object]


@contextmanager
def asking(chain: Chain, avatar_id: str, model: str, expected: list[bytes]) -> Iterator[Asked]:
    asked = Asked(0, [], [])
    over = threading.Event()

    def ask_on() -> None:
        while not over.is_set():
            try:
                answer = frames(chain, avatar_id, model)
            except InferenceServerException as error:
                asked.errors.append(str(error.message()))
            else:
                if answer == expected:
                    asked.right += 1
                else:
                    asked.wrong.append(answer)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def wait_until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def wait_for_more(asked: Asked) -> None:
    """Until two more answers were right: the second of them was asked for after this call."""
    before = asked.right
    wait_until(lambda: asked.right >= before + 2)


# --- damages ---
def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


BRIEFLY = ("avatar-scan_data.npy-flip", "idle_frames-avatar.json-overwrite")
"""In `make test`, where the others would take too long."""


def amid_requests() -> Iterator[Any]:
    for name, damage in (
        ("faces.npy", flip),
        ("region_data.npy", overwrite),
        ("scan_data.npy", flip),
        ("scan_offsets.npy", overwrite),
        ("idle_data.npy", flip),
        ("rects.npy", Path.unlink),
        ("scan_data.npy", Path.unlink),
        ("faces.npy", grow),
        ("avatar.json", overwrite),
    ):
        for model in ("avatar", "idle_frames"):
            case = f"{model}-{name}-{damage.__name__}"
            marks = [] if case in BRIEFLY else [pytest.mark.faults]
            yield pytest.param(model, name, damage, id=case, marks=marks)


@pytest.mark.parametrize(("model", "name", "damage"), list(amid_requests()))
def test_damage_amid_requests(
    chain: Chain, avatars: Path, folder: Path, model: str, name: str, damage: Damage
) -> None:
    expected, others = frames(chain, "demo"), frames(chain, "other")
    with (
        asking(chain, "other", "avatar", others) as other,
        asking(chain, "demo", model, expected) as demo,
    ):
        wait_for_more(demo)
        damage(folder / name)
        wait_until(lambda: any(re.search(DAMAGED, error) for error in demo.errors))
        import_again(chain, avatars)
        wait_for_more(demo)
        wait_for_more(other)
    assert (demo.wrong, other.wrong, other.errors) == ([], [], [])
    assert [error for error in demo.errors if not re.search(f"{DAMAGED}|{GONE}", error)] == []


@pytest.mark.parametrize("damage", [halve, pytest.param(empty, marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    "name",
    [
        "region_data.npy",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("faces.npy", "scan_data.npy", "rects.npy", "idle_data.npy")
        ),
    ],
)
def test_a_file_cut_short_between_two_requests(
    chain: Chain, avatars: Path, folder: Path, name: str, damage: Damage
) -> None:
    """Not amid one: a process that reads a page just cut off is ended by the kernel."""
    expected, others = frames(chain, "demo"), frames(chain, "other")
    with asking(chain, "other", "avatar", others) as other:
        assert frames(chain, "demo", "idle_frames") == expected
        damage(folder / name)
        for model in ("avatar", "idle_frames", "avatar"):
            assert re.search(DAMAGED, refusal(chain, model))
        import_again(chain, avatars)
        assert frames(chain, "demo") == frames(chain, "demo", "idle_frames") == expected
        wait_for_more(other)
    assert (other.wrong, other.errors) == ([], [])


def test_the_log_names_the_file_and_the_answer_does_not(chain: Chain, folder: Path) -> None:
    flip(folder / "faces.npy")
    said = refusal(chain)
    assert str(folder) not in said
    found = re.search(r"fault (\w{12})", said)
    assert found
    log = chain.server.log_path.read_text()
    assert f"fault {found[1]}: {folder}/faces.npy is damaged: its SHA-256 is not the manifest's" in log


def test_a_file_that_is_put_right_where_it_lies(chain: Chain, folder: Path) -> None:
    expected = frames(chain, "demo")
    flip(folder / "faces.npy")
    assert re.search(DAMAGED, refusal(chain))
    flip(folder / "faces.npy")
    with asking(chain, "demo", "avatar", expected) as demo:
        wait_for_more(demo)
    assert demo.wrong == []


@pytest.mark.faults
def test_an_avatar_that_is_imported_again_amid_requests(chain: Chain, avatars: Path, folder: Path) -> None:
    expected = frames(chain, "demo")
    with asking(chain, "demo", "avatar", expected) as demo:
        for _ in range(5):
            import_again(chain, avatars)
            wait_for_more(demo)
    assert demo.wrong == []
    assert [error for error in demo.errors if GONE not in error] == []


def test_packs_that_nobody_asks_for_are_unmapped_and_may_be_damaged_then(
    chain: Chain, avatars: Path, folder: Path
) -> None:
    expected = frames(chain, "demo")
    assert frames(chain, "demo", "idle_frames") == expected
    assert len(mapping(chain, folder)) >= 3, "audio_windows, lipsync, compositor and idle_frames"
    with asking(chain, "other", "avatar", frames(chain, "other")) as other:
        wait_until(lambda: not mapping(chain, folder))
        assert mapping(chain, chain.avatars / "other")
        halve(folder / "faces.npy")
        assert re.search(DAMAGED, refusal(chain))
        import_again(chain, avatars)
        assert frames(chain, "demo") == expected
    assert (other.wrong, other.errors) == ([], [])
    wait_until(lambda: not mapping(chain, chain.avatars))


def mapping(chain: Chain, folder: Path) -> list[int]:
    """The server's processes that map a file in the folder."""
    processes = psutil.Process(chain.server.pid).children(recursive=True)
    return [process.pid for process in processes if str(folder) in maps_of(process.pid)]


def maps_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()
