"""The host on real graphs: what is resident is answered at once, what is not later, and what is wrong alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compositor_backend.audio_encoder import AudioEncoder
from compositor_backend.errors import DamagedAvatarError, RequestError
from compositor_backend.graph_file import GraphFile
from compositor_backend.lipsync import Lipsync
from compositor_backend.manifest import Manifest
from compositor_backend.network_cache import CacheCounts
from compositor_backend.network_host import NetworkHost, NetworkModel
from compositor_backend.onnx_runtime import Device, Network, Runtime
from compositor_backend.pack import AvatarFolder, AvatarPack, FacePack, PackCache
from compositor_backend.timeline import template_frames
from export.avatar import NetworkSource, build_avatar
from export.boxes import read_boxes
from export.frames import open_frames
from tests.support.avatar_sources import Sources, drawn_mouth, network_graph

PATIENCE_S = 30.0
Arrays = dict[str, NDArray[Any]]


class Asked:
    """A request; its answer, now or later, is tensors or an error."""

    def __init__(self, inputs: Arrays) -> None:
        self.inputs = inputs
        self.deferred = False
        self.cancelled = False
        self.sent: Queue[Any] = Queue()

    def response(self, outputs: Any) -> Any:
        return {name: array.copy() for name, array in outputs.items()}

    def failure(self, error: Exception) -> Any:
        return error

    def defer(self) -> None:
        self.deferred = True
        self.inputs = {name: array.copy() for name, array in self.inputs.items()}

    def send(self, response: Any) -> None:
        self.sent.put(response)


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ann` and `bob` with networks of their own, and `cat`, whose network takes mel."""
    folder = tmp_path_factory.mktemp("host")
    for key, (avatar_id, mel) in enumerate([("ann", False), ("bob", False), ("cat", True)]):
        sources = Sources.write(folder / avatar_id, key=key, seed=key + 1)
        changes: dict[str, Any] = {"avatars": folder / "avatars"}
        if mel:
            import onnx

            onnx.save(network_graph(key, 96, (1, 80, 16)), str(sources.network))
            changes |= {"network": NetworkSource(sources.network), "encoder": None}
        frames = open_frames(sources.frames)
        build_avatar(sources.settings(avatar_id, **changes), frames, read_boxes(sources.boxes, frames.names))
    return folder / "avatars"


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(
        Device("CPU"),
        threads=1,
        scratch_bytes=None,
        cache_folder=tmp_path / "cache",
        load_timeout_s=60,
        warn=print,
    )


Make = Callable[..., NetworkHost[Any]]


@pytest.fixture
def make(runtime: Runtime) -> Iterator[Make]:
    made: list[NetworkHost[Any]] = []

    def make(
        model: NetworkModel[Any],
        open_network: Callable[[GraphFile], Network] = runtime.open,
        budget: int = 1 << 30,
        report: Callable[[CacheCounts], None] = lambda counts: None,
    ) -> NetworkHost[Any]:
        made.append(NetworkHost(model, open_network, budget, report=report, warn=print))
        return made[-1]

    yield make
    for host in made:
        host.close()


def rows(avatar: str, count: int) -> NDArray[Any]:
    tensor = np.empty((count, 1), object)
    tensor[:] = avatar.encode()
    return tensor


def mouths(
    avatar: str, first: int = 0, count: int = 3, level: float = 0.5, shape: Any = (32, 16, 16)
) -> Asked:
    index = np.arange(first, first + count, dtype=np.int32)[:, None]
    audio = np.full((count, *shape), level, np.float32)
    return Asked({"AVATAR": rows(avatar, count), "FRAME_INDEX": index, "AUDIO": audio})


def answers(host: NetworkHost[Any], *asked: Asked) -> list[Any]:
    """All answers in order, those awaited that come later."""
    given = host.answer(asked)
    return [
        one.sent.get(timeout=PATIENCE_S) if one.deferred else answer
        for one, answer in zip(asked, given, strict=True)
    ]


def expected(avatars: Path, asked: Asked) -> NDArray[np.uint8]:
    avatar = asked.inputs["AVATAR"][0, 0].decode()
    pack = PackCache(AvatarPack, avatars, 1 << 30).get(avatar)
    template = template_frames(asked.inputs["FRAME_INDEX"][:, 0], pack.frames)
    return drawn_mouth(pack.faces[template], asked.inputs["AUDIO"])


def test_rows_of_several_avatars_and_turns_of_the_timeline(avatars: Path, make: Make) -> None:
    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)))
    asked = [mouths("ann", 0), mouths("bob", 2, 9, 1.5), mouths("ann", 5, 1, -1.0), mouths("bob", 1)]
    for _ in range(2):  # the first time all wait for their network
        for one, answer in zip(asked, answers(host, *asked), strict=True):
            np.testing.assert_array_equal(answer["MOUTH"], expected(avatars, one))
            key = 0 if one.inputs["AVATAR"][0, 0] == b"ann" else 1
            assert (answer["AVATAR_KEY"] == key).all()
        asked = [Asked(one.inputs) for one in asked]
    assert not any(one.deferred for one in asked)


def test_a_slow_load_holds_up_nobody_else(avatars: Path, make: Make, runtime: Runtime) -> None:
    go_on = threading.Event()
    bob = Manifest.load(avatars / "bob").graphs["network"].sha256

    def open_slowly(graph: GraphFile) -> Network:
        if graph.sha256 == bob:
            assert go_on.wait(PATIENCE_S)
        return runtime.open(graph)

    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)), open_slowly)
    answers(host, mouths("ann"))
    slow, quick = mouths("bob"), mouths("ann")
    given = host.answer([slow, quick])
    assert given[0] is None
    np.testing.assert_array_equal(given[1]["MOUTH"], expected(avatars, quick))
    np.testing.assert_array_equal(answers(host, mouths("ann"))[0]["MOUTH"], given[1]["MOUTH"])
    assert slow.sent.empty()
    go_on.set()
    np.testing.assert_array_equal(slow.sent.get(timeout=PATIENCE_S)["MOUTH"], expected(avatars, slow))


def test_bad_requests_fail_alone(avatars: Path, make: Make) -> None:
    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)))
    nan = mouths("ann")
    nan.inputs["AUDIO"][1, 0, 0, 0] = np.nan
    mixed = mouths("ann")
    mixed.inputs["AVATAR"][1] = b"bob"
    bad = [mouths("nobody"), mouths("../x"), mouths("ann", shape=(16, 32, 32)), nan, mixed, mouths("ann", -1)]
    good = mouths("ann")
    *wrong, right = answers(host, *bad, good)
    assert all(isinstance(error, RequestError) for error in wrong), wrong
    np.testing.assert_array_equal(right["MOUTH"], expected(avatars, good))


@pytest.mark.parametrize("spoil", ["damaged", "exchanged", "missing", "no graph"])
def test_an_avatar_whose_network_is_wrong_fails_alone(
    avatars: Path, make: Make, tmp_path: Path, spoil: str
) -> None:
    import shutil

    copy = Path(shutil.copytree(avatars, tmp_path / "avatars"))
    path = copy / "bob" / "network.onnx"
    if spoil == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif spoil == "exchanged":
        shutil.copyfile(copy / "ann" / "network.onnx", path)
    elif spoil == "missing":
        path.unlink()
    else:
        path.write_bytes(b"no graph")
    host = make(Lipsync(PackCache(FacePack, copy, 1 << 30)))
    wrong, right = answers(host, mouths("bob"), mouths("ann"))
    assert isinstance(wrong, DamagedAvatarError)
    assert "'bob' is damaged" in str(wrong)
    assert isinstance(right, dict)


def test_a_resident_network_is_not_harmed_by_what_becomes_of_its_file(
    avatars: Path, make: Make, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(avatars, tmp_path / "avatars"))
    host = make(Lipsync(PackCache(FacePack, copy, 1 << 30)))
    (before,) = answers(host, mouths("bob"))
    (copy / "bob" / "network.onnx").write_bytes(b"no graph")
    (after,) = answers(host, mouths("bob"))
    np.testing.assert_array_equal(before["MOUTH"], after["MOUTH"])


def test_a_budget_smaller_than_one_network_serves_one_at_a_time(avatars: Path, make: Make) -> None:
    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)), budget=1)
    for avatar in ("ann", "bob", "ann"):
        asked = mouths(avatar)
        np.testing.assert_array_equal(answers(host, asked)[0]["MOUTH"], expected(avatars, asked))


def test_nobody_draws_for_who_has_gone(avatars: Path, make: Make) -> None:
    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)))
    gone, here = mouths("ann"), mouths("ann")
    gone.cancelled = True
    host.answer([gone, here])
    assert isinstance(here.sent.get(timeout=PATIENCE_S), dict)
    assert gone.sent.empty()


def test_a_warm_avatar_does_not_wait(avatars: Path, make: Make) -> None:
    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)))
    host.warm("ann")
    asked = mouths("ann")
    answers(host, asked)
    assert not asked.deferred
    with pytest.raises(RequestError):
        host.warm("nobody")


def test_counts_are_told_from_one_thread_at_a_time_and_the_last_are_the_latest(
    avatars: Path, make: Make
) -> None:
    """A loader thread and Triton's tell at the same time; the first waits for a second one to come in."""
    told: list[CacheCounts] = []
    inside, second, together = threading.Lock(), threading.Event(), threading.Event()

    def report(counts: CacheCounts) -> None:
        if not inside.acquire(blocking=False):
            together.set()
            second.set()
            return
        second.wait(0.2)
        told.append(counts)
        inside.release()

    host = make(Lipsync(PackCache(FacePack, avatars, 1 << 30)), report=report)
    for asked in (
        [mouths("ann"), mouths("ann", 4)],
        [mouths("bob")],
        [mouths("ann"), mouths("bob"), mouths("ann")],
    ):
        answers(host, *asked)
    host.close()
    assert not together.is_set()
    assert (told[-1].hits, told[-1].misses, told[-1].loads) == (3, 3, 2)


def windows(avatar: str, count: int = 20) -> Asked:
    mel = np.random.default_rng(count).standard_normal((count, 1, 80, 16)).astype(np.float32)
    return Asked({"AVATAR": rows(avatar, count), "MEL": mel})


def test_windows_are_encoded_and_those_of_a_mel_network_pass(avatars: Path, make: Make) -> None:
    host = make(AudioEncoder(PackCache(AvatarFolder, avatars, 1 << 30)))
    asked = [windows("ann", 20), windows("cat", 17), windows("bob", 47)]
    ann, cat, bob = answers(host, *asked)
    for one, answer in ((asked[0], ann), (asked[2], bob)):
        head = one.inputs["MEL"].reshape(len(one.inputs["MEL"]), -1)[:, :512]
        np.testing.assert_array_equal(answer["EMBEDDING"], head)
    np.testing.assert_array_equal(cat["EMBEDDING"], asked[1].inputs["MEL"].reshape(17, 1280))
    assert not asked[1].deferred, "it needs no network"


def test_windows_that_break_the_contract(avatars: Path, make: Make) -> None:
    host = make(AudioEncoder(PackCache(AvatarFolder, avatars, 1 << 30)))
    nan = windows("ann")
    nan.inputs["MEL"][3, 0, 0, 0] = np.inf
    for asked in (nan, windows("ann", 48), windows("nobody")):
        assert isinstance(answers(host, asked)[0], RequestError)
