"""No face is ever drawn with another avatar's mouth, whatever is exchanged on the disk: an error, never a frame.

What is changed is written anew beside the old file, as an importer does: clones share files by hard links.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from client import LipstreamClient
from compositor_backend import contract
from compositor_backend.manifest import MANIFEST_NAME
from export.avatar import MODEL_FILE
from export.onnx_guard import CLONE_FILE
from server.launcher import TritonServer
from tests.functional.chain.wire import ask
from tests.functional.faults.conftest import Catalogue
from tests.support.clones import SOURCE, shows
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

FRAMES = 5
LOGGED_S = 60
AUDIO_SHAPE = (32, 16, 16)
NUMBERS_FILE = MODEL_FILE.with_name(CLONE_FILE)
"""Key and tint of a clone's network; the graph beside it is the same for all."""
ENSEMBLES = (contract.avatar_ensemble_name, contract.features_ensemble_name)
Ensemble = Callable[[str], str]


def models(avatar_id: str) -> list[str]:
    """Those of an avatar's own, which nothing else is made of."""
    return [*(ensemble(avatar_id) for ensemble in ENSEMBLES), contract.lipsync_name(avatar_id)]


@dataclass(frozen=True)
class House:
    """A server, the model repository that is tampered with, and what it was made from."""

    server: TritonServer
    avatars: Path
    catalogue: Catalogue

    @property
    def victim(self) -> str:
        return self.catalogue.ids[0]

    @property
    def other(self) -> str:
        return self.catalogue.ids[1]

    def ensemble(self, avatar_id: str) -> Path:
        return self.avatars / contract.avatar_ensemble_name(avatar_id)

    def network(self, avatar_id: str) -> Path:
        return self.avatars / contract.lipsync_name(avatar_id)

    @contextmanager
    def unloaded(self, change: Callable[[House], None]) -> Iterator[None]:
        """Change what lies on the disk, while nobody has it loaded; undo it at the end."""
        self.unload()
        change(self)
        try:
            yield
        finally:
            self.unload()
            for avatar_id in (self.victim, self.other):
                for name in models(avatar_id):
                    shutil.rmtree(self.avatars / name)
                    shutil.copytree(self.catalogue.avatars / name, self.avatars / name)

    def unload(self) -> None:
        with tritonclient.grpc.InferenceServerClient(self.server.grpc_url) as client:
            for avatar_id in (self.victim, self.other):
                for name in models(avatar_id):
                    client.unload_model(name)

    def load(self, model: str) -> None:
        with tritonclient.grpc.InferenceServerClient(self.server.grpc_url) as client:
            client.load_model(model)

    def frames(self, avatar_id: str, model: str) -> dict[str, NDArray[Any]]:
        """JPEG and RECT of the first frames, as the ensemble `model` gives them for that avatar."""
        inputs: dict[str, NDArray[Any]] = {
            "AVATAR": np.array([avatar_id.encode()], object),
            "FRAME_INDEX": np.arange(FRAMES, dtype=np.int32),
        }
        if model.startswith(contract.FEATURES_PREFIX):
            inputs["AUDIO"] = np.zeros((FRAMES, *AUDIO_SHAPE), np.float32)
        else:
            inputs["PCM"] = np.zeros(contract.pcm_samples(FRAMES), np.int16)
        return ask(self.server.grpc_url, model, inputs, ("JPEG", "RECT"))

    def load_and_ask(self, avatar_id: str, model: str) -> dict[str, NDArray[Any]]:
        self.load(model)
        return self.frames(avatar_id, model)

    def refusal(self, avatar_id: str, model: str) -> str:
        """Why the ensemble is not loaded, or gives no frame; where the answer is kept short, what the log has of it."""
        with pytest.raises(InferenceServerException) as caught:
            self.load_and_ask(avatar_id, model)
        text = str(caught.value.message())
        fault = re.search(r"fault \w{12}", text)
        return text if fault is None else self._logged(fault.group())

    def _logged(self, fault: str) -> str:
        """What the log has of a fault; it may come there a moment after the answer."""
        until_s = time.monotonic() + LOGGED_S
        while f"{fault}:" not in (log := self.server.log_path.read_text()) and time.monotonic() < until_s:
            time.sleep(0.02)
        return log.partition(f"{fault}:")[2]

    def serves(self, avatar_id: str) -> None:
        """Both ensembles of the avatar give its own frames, with its own face in them."""
        for ensemble in ENSEMBLES:
            found = self.load_and_ask(avatar_id, ensemble(avatar_id))
            assert len(found["JPEG"]) == FRAMES
            for jpeg, rect in zip(found["JPEG"], found["RECT"], strict=True):
                assert shows(avatar_id, jpeg, rect, self.catalogue.source)


@pytest.fixture(scope="module")
def house(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    avatars = tmp_path_factory.mktemp("wrong-face") / "avatars"
    shutil.copytree(catalogue.avatars, avatars)
    with running_triton(avatars=avatars, load=[SOURCE]) as server:
        yield House(server, avatars, catalogue)


# --- ids ---
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_an_id_sent_to_another_ones_ensemble(house: House, ensemble: Ensemble) -> None:
    for avatar_id in (house.victim, house.other):
        house.serves(avatar_id)
    for asked, served in (
        (house.victim, house.other),
        (house.other, house.victim),
        (house.victim, SOURCE),
        (SOURCE, house.victim),
    ):
        assert "AVATAR_KEY is" in house.refusal(asked, ensemble(served))
    for avatar_id in (house.victim, house.other):
        house.serves(avatar_id)


# --- files ---
def put(path: Path, content: bytes) -> None:
    """Write a file anew (others may share the one that was there), with its former times.

    Without those, as a file that was written since the import, it would be compared with its checksum and refused.
    """
    before = path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / MANIFEST_NAME
    put(path, json.dumps({**json.loads(path.read_text()), **fields}).encode())


def change_key(house: House) -> None:
    change_manifest(house.ensemble(house.victim), network_key=1)


def copy_manifest(house: House) -> None:
    others = house.ensemble(house.other) / MANIFEST_NAME
    put(house.ensemble(house.victim) / MANIFEST_NAME, others.read_bytes())


def copy_manifest_but_for_the_id(house: House) -> None:
    copy_manifest(house)
    change_manifest(house.ensemble(house.victim), id=house.victim)


def copy_graph(house: House) -> None:
    """A whole network, as the source's is; the clone's key and tint beside it are not looked at."""
    put(house.network(house.victim) / MODEL_FILE, (house.network(SOURCE) / MODEL_FILE).read_bytes())


def copy_key_and_tint(house: House) -> None:
    put(house.network(house.victim) / NUMBERS_FILE, (house.network(house.other) / NUMBERS_FILE).read_bytes())


def exchange(one: Path, another: Path) -> None:
    aside = one.with_name(f"{one.name}.aside")
    one.rename(aside)
    another.rename(one)
    aside.rename(another)


def exchange_graphs(house: House) -> None:
    exchange(*(house.network(name) / MODEL_FILE.parent for name in (house.victim, house.other)))


def exchange_networks(house: House) -> None:
    exchange(house.network(house.victim), house.network(house.other))


def exchange_networks_and_names(house: House) -> None:
    """As somebody does who makes Triton load them."""
    exchange_networks(house)
    for name, came in ((house.victim, house.other), (house.other, house.victim)):
        rename(house.network(name), contract.lipsync_name(came), contract.lipsync_name(name))


def rename(folder: Path, former: str, name: str) -> None:
    """Let the configs in a folder say `name` for `former`."""
    for config in folder.rglob("*.pbtxt"):
        text = config.read_text()
        assert former in text
        put(config, text.replace(former, name).encode())


def name_the_others_network(house: House) -> None:
    own, others = contract.lipsync_name(house.victim), contract.lipsync_name(house.other)
    for ensemble in ENSEMBLES:
        rename(house.avatars / ensemble(house.victim), own, others)


def exchange_avatars(house: House) -> None:
    exchange(house.ensemble(house.victim), house.ensemble(house.other))


def exchange_packs(house: House) -> None:
    """Each avatar's ensemble stays where it is, and what it draws into is the other's."""
    for path in house.ensemble(house.victim).iterdir():
        if path.suffix in (".json", ".npy"):
            exchange(path, house.ensemble(house.other) / path.name)


DRAWN = "AVATAR_KEY is"
CHANGES: dict[str, tuple[Callable[[House], None], str, bool]] = {
    "key in the manifest": (change_key, DRAWN, False),
    "the other's manifest": (copy_manifest, "is of the avatar", False),
    "the other's manifest, own id": (copy_manifest_but_for_the_id, DRAWN, False),
    "the source's graph": (copy_graph, DRAWN, False),
    "the other's network": (copy_key_and_tint, DRAWN, False),
    # The other's graph may be older than the avatar's sums, or newer.
    "graphs exchanged": (exchange_graphs, f"{DRAWN}|is damaged: its SHA-256", True),
    "networks exchanged": (exchange_networks, "contains models that are not available", True),
    "networks exchanged, with names": (exchange_networks_and_names, DRAWN, True),
    "the other's network named": (name_the_others_network, DRAWN, False),
    "packs exchanged": (exchange_packs, "is of the avatar", True),
}
"""What is changed, what the error says, and whether the other's ensembles give it too."""


BRIEFLY = ("key in the manifest", "the other's network")
"""In `make test`, where the others would take too long."""


@pytest.mark.parametrize(
    "name", [name if name in BRIEFLY else pytest.param(name, marks=pytest.mark.faults) for name in CHANGES]
)
def test_what_is_not_the_avatars_own_gives_an_error_and_no_frame(house: House, name: str) -> None:
    change, says, mutual = CHANGES[name]
    house.serves(house.victim)
    with house.unloaded(change):
        for avatar_id in (house.victim, house.other) if mutual else (house.victim,):
            for ensemble in ENSEMBLES:
                assert re.search(says, house.refusal(avatar_id, ensemble(avatar_id)))
        if not mutual:
            house.serves(house.other)
    house.serves(house.victim)
    house.serves(house.other)


def test_an_ensemble_that_is_another_ones_folder_is_not_loaded(house: House) -> None:
    with house.unloaded(exchange_avatars):
        for avatar_id in (house.victim, house.other):
            name = contract.avatar_ensemble_name(avatar_id)
            assert f"failed to load '{name}'" in house.refusal(avatar_id, name)
            # Ready features are drawn into the pack in that folder.
            features = contract.features_ensemble_name(avatar_id)
            assert "is of the avatar" in house.refusal(avatar_id, features)
    house.serves(house.victim)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["key in the manifest", "the other's manifest", "packs exchanged"])
def test_what_is_changed_under_a_loaded_avatar(house: House, name: str) -> None:
    change, says, _ = CHANGES[name]
    with house.unloaded(lambda _: None):
        house.serves(house.victim)
        change(house)
        for ensemble in ENSEMBLES:
            assert re.search(says, house.refusal(house.victim, ensemble(house.victim)))
    house.serves(house.victim)


def test_another_ones_network_that_was_written_since_the_import_is_not_loaded(house: House) -> None:
    def write_anew(house: House) -> None:
        copy_key_and_tint(house)
        (house.network(house.victim) / NUMBERS_FILE).touch()

    with house.unloaded(write_anew):
        for ensemble in ENSEMBLES:
            said = house.refusal(house.victim, ensemble(house.victim))
            assert "is damaged: its SHA-256 is not that in SHA256SUMS" in said
    house.serves(house.victim)


def test_a_loaded_avatar_keeps_its_network_until_it_is_loaded_anew(house: House) -> None:
    with house.unloaded(lambda _: None):
        house.serves(house.victim)
        copy_key_and_tint(house)
        own = contract.avatar_ensemble_name(house.victim)
        for jpeg, rect in zip(*house.frames(house.victim, own).values(), strict=True):
            assert shows(house.victim, jpeg, rect, house.catalogue.source)
        house.unload()
        assert DRAWN in house.refusal(house.victim, own)
    house.serves(house.victim)


def idle_frames(house: House) -> list[bytes]:
    """The idle frames of the avatar that the clones were made from: it alone has any."""
    inputs = {
        "AVATAR": np.array([SOURCE.encode()], object),
        "FRAME_INDEX": np.arange(FRAMES, dtype=np.int32),
    }
    return list(ask(house.server.grpc_url, contract.IDLE_FRAMES_MODEL.name, inputs)["JPEG"])


@contextmanager
def changed_source(house: House, **fields: Any) -> Iterator[None]:
    """The manifest of that avatar, which stays loaded, says something else."""
    path = house.ensemble(SOURCE) / MANIFEST_NAME
    former = path.read_bytes()
    change_manifest(house.ensemble(SOURCE), **fields)
    try:
        yield
    finally:
        put(path, former)


@pytest.mark.parametrize("field", ["network_key", "idle_key"])
def test_idle_frames_that_another_network_drew_are_an_error(house: House, field: str) -> None:
    """No network runs for them, so nothing gives an AVATAR_KEY that could be compared."""
    expected = idle_frames(house)
    with changed_source(house, **{field: 1}), pytest.raises(InferenceServerException, match=DRAWN):
        idle_frames(house)
    assert idle_frames(house) == expected


async def test_a_client_shows_an_avatar_whose_idle_frames_bear_no_key(house: House) -> None:
    """They were imported before there were any keys in them; the avatar's ensemble gives the same."""
    expected = idle_frames(house)
    silence = np.zeros(FRAMES * contract.SAMPLES_PER_FRAME, np.int16)
    with changed_source(house, idle_key=None):
        with pytest.raises(InferenceServerException, match="has no idle frames that say which network"):
            idle_frames(house)
        async with LipstreamClient(house.server.grpc_url) as client:
            assert [frame.jpeg async for frame in client.speak(SOURCE, silence)] == expected
