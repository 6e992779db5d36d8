"""An avatar's files deleted, cut short and changed, before it is loaded and while it speaks to two of eight viewers."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from client import AvatarPool, LipstreamClient, PoolSettings, ServerError
from export.checksums import SUMS_FILE, record_sums
from tests.functional.faults.conftest import BACK_WITHIN_S, FAILS_WITHIN_S, Catalogue
from tests.support.clones import SOURCE, shows
from tests.support.served import Served, serving
from tests.support.streams import FRAMES, Viewers, noise, viewers

pytestmark = [pytest.mark.functional, pytest.mark.faults]
_log = logging.getLogger(__name__)

WARM_S = 120
FORGIVING = PoolSettings(most=4, failed_s=1)
"""A load that failed is tried again after a second."""

Damage = Callable[[Path], None]


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def corrupt(path: Path) -> None:
    """Other bytes in its middle, in place, and of the same number."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 2)
        found = file.read(min(64, size // 2))
        file.seek(size // 2)
        file.write(bytes(byte ^ 0x55 for byte in found))


DAMAGES = (delete, truncate, corrupt)
PACK = ("scan_data.npy", "region_data.npy", "faces.npy", "jpeg_header.npy", "avatar.json")
NETWORK = ("1/model.onnx", "1/clone.bin")


@pytest.fixture(scope="module")
def own(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The catalogue with files of its own: those of clones are shared, and damage would be too."""
    avatars = tmp_path_factory.mktemp("own") / "avatars"
    shutil.copytree(catalogue.avatars, avatars)
    return Catalogue(avatars, catalogue.ids, catalogue.source)


@pytest.fixture(scope="module")
def served(own: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(own.avatars, log=tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_pack_damaged_while_its_avatar_speaks(served: Served, own: Catalogue, damage: Damage) -> None:
    await strike_each(served, own, own.avatars / f"avatar_{own.ids[0]}", PACK, damage)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_network_damaged_while_its_avatar_speaks(
    served: Served, own: Catalogue, damage: Damage
) -> None:
    await strike_each(served, own, own.avatars / f"lipsync_{own.ids[0]}", NETWORK, damage)


async def test_all_of_an_avatar_deleted_while_it_speaks(served: Served, own: Catalogue) -> None:
    folder = own.avatars / f"avatar_{own.ids[0]}"
    await strike_each(served, own, own.avatars, [folder.name], shutil.rmtree)


async def strike_each(
    served: Served, own: Catalogue, folder: Path, names: tuple[str, ...] | list[str], damage: Damage
) -> None:
    """Damage one file after another while two viewers watch the avatar and six watch others, and put each right."""
    victim, *others = own.ids
    async with (
        AvatarPool([served.url], FORGIVING) as pool,
        viewers(pool, [victim], 2, own.source) as unlucky,
        viewers(pool, others, 6, own.source, seed=1) as lucky,
    ):
        for name in names:
            await unlucky.each_served_since(time.monotonic(), WARM_S)
            kept = keep(folder / name)
            struck_s = time.monotonic()
            try:
                damage(folder / name)
                await unlucky.until(lambda since_s=struck_s: each_ended(unlucky, since_s), WARM_S)  # type: ignore[misc]
            finally:
                put_back(kept, folder / name)
            await unlucky.each_served_since(time.monotonic(), BACK_WITHIN_S)
            check_errors(unlucky, struck_s)
            _log.info(
                "%s of %s: %s", damage.__name__, name, errors_since(unlucky, struck_s) or "nothing noticed"
            )
        await lucky.each_served_since(time.monotonic(), WARM_S)
    assert not [utterance for utterance in lucky.all() if utterance.error]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_an_avatar_damaged_before_it_is_loaded(served: Served, own: Catalogue, damage: Damage) -> None:
    victim = own.ids[0]
    files = [own.avatars / f"avatar_{victim}" / name for name in PACK]
    files += [own.avatars / f"lipsync_{victim}" / name for name in NETWORK]
    for path in files:
        kept = keep(path)
        async with AvatarPool([served.url], PoolSettings(most=4)) as pool:
            await pool.pin(victim)
            pool.unpin(victim)
        async with AvatarPool([served.url], FORGIVING) as pool:
            # The pool has not loaded it, so it would not unload it either.
            async with LipstreamClient(served.url) as client:
                await client.unload(victim)
            damage(path)
            struck_s = time.monotonic()
            with pytest.raises(ServerError) as caught:
                await pool.pin(victim)
            assert time.monotonic() - struck_s <= FAILS_WITHIN_S
            assert victim in str(caught.value) or path.name in str(caught.value)
            assert "Traceback" not in str(caught.value)
            _log.info("%s of %s: %s", damage.__name__, path.name, caught.value)
            put_back(kept, path)
            async with asyncio.timeout(BACK_WITHIN_S):
                await lease_when_forgiven(pool, victim)


def no_graph(path: Path) -> None:
    path.write_bytes(np.random.default_rng(1).bytes(50_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_signature(path: Path) -> None:
    """A whole graph: the audio encoder's."""
    path.write_bytes((path.parents[2] / f"audio_encoder_{SOURCE}" / "1" / path.name).read_bytes())


BROKEN: tuple[Damage, ...] = (no_graph, empty, truncate, another_signature)


@pytest.mark.parametrize("summed", [False, True], ids=["no sums", "right sums"])
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_graph_that_does_not_load(
    served: Served, own: Catalogue, broken: Damage, summed: bool
) -> None:
    """Checksums that are missing, or that fit, let it come as far as onnxruntime."""
    victim, other, *_ = own.ids
    folder = own.avatars / f"lipsync_{victim}"
    graph = folder / "1/model.onnx"
    kept = {path: keep(path) for path in (graph, folder / SUMS_FILE)}
    async with AvatarPool([served.url], FORGIVING) as pool, LipstreamClient(served.url) as client:
        await pool.pin(other)
        await client.unload(victim)
        before = ready_models(served)
        broken(graph)
        if summed:
            record_sums(folder)
        else:
            (folder / SUMS_FILE).unlink()
        struck_s = time.monotonic()
        with pytest.raises(ServerError) as caught:
            await pool.pin(victim)
        assert time.monotonic() - struck_s <= FAILS_WITHIN_S
        assert f"lipsync_{victim}" in str(caught.value)
        assert not re.search(r"Traceback|\.py", str(caught.value))
        assert "damaged: its SHA-256" not in str(caught.value)
        _log.info("%s: %s", broken.__name__, caught.value)
        # Nothing of the avatar is left, and all else is there.
        assert ready_models(served) == before
        assert not any(victim in name for name in before)
        await no_process_stays(served, folder.name)
        assert await shows_itself(pool, other, own)
        for path, copy in kept.items():
            put_back(copy, path)
        async with asyncio.timeout(BACK_WITHIN_S):
            await lease_when_forgiven(pool, victim)
        assert await shows_itself(pool, victim, own)


async def no_process_stays(served: Served, model: str) -> None:
    """Neither of the load that failed, nor of the one that was unloaded before it."""
    async with asyncio.timeout(BACK_WITHIN_S):
        while served.stubs(model):
            await asyncio.sleep(0.05)


def ready_models(served: Served) -> set[str]:
    with InferenceServerClient(served.url) as client:
        return {model.name for model in client.get_model_repository_index().models if model.state == "READY"}


async def shows_itself(pool: AvatarPool, avatar: str, own: Catalogue) -> bool:
    """Whether the avatar speaks, with its own face in every frame."""
    async with pool.lease(avatar) as lease:
        speech = lease.client.speak(avatar, noise(FRAMES, 0), rects=True)
        frames = [frame async for frame in speech]
    return len(frames) == FRAMES and all(
        shows(avatar, frame.jpeg, frame.rect or (), own.source) for frame in frames
    )


async def lease_when_forgiven(pool: AvatarPool, avatar: str) -> None:
    while True:
        try:
            async with pool.lease(avatar) as lease:
                frames = [frame async for frame in lease.client.speak(avatar, noise(FRAMES, 0))]
        except ServerError:
            await asyncio.sleep(0.1)
        else:
            assert len(frames) == FRAMES
            return


def keep(path: Path) -> Path:
    """A copy that can be put back: times and all."""
    kept = path.with_name(f".kept-{path.name}")
    if path.is_dir():
        shutil.copytree(path, kept)
    else:
        shutil.copy2(path, kept)
    return kept


def put_back(kept: Path, path: Path) -> None:
    kept.replace(path)


def each_ended(streams: Viewers, since_s: float) -> bool:
    """Whether every viewer has ended an utterance that began after `since_s`, well or not."""
    return all(any(u.began_s >= since_s for u in own) for own in streams.past)


def errors_since(streams: Viewers, since_s: float) -> set[str]:
    return {u.error for u in streams.all() if u.error and u.ended_s >= since_s}


def check_errors(streams: Viewers, struck_s: float) -> None:
    for utterance in streams.all():
        if utterance.error and utterance.ended_s >= struck_s:
            assert utterance.ended_s - max(struck_s, utterance.began_s) <= FAILS_WITHIN_S, utterance
