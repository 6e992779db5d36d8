"""Clients that go in the middle of it, while others watch: those notice nothing, and nothing of the former stays."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from client import AvatarPool, PoolSettings, RetryPolicy
from server.settings import ROOT
from tests.functional.faults.conftest import Catalogue
from tests.support.served import Served, serving
from tests.support.streams import viewers

pytestmark = pytest.mark.functional

VIEWERS = 8
WAIT_S = 120
VANISHING = 200
CUTS = 40
SPARE_HANDLES = 20

VANISHER = """
import asyncio, sys
import numpy as np
from client import LipstreamClient, LipstreamError

url, avatar, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
kept = []
sound = np.random.default_rng(0).integers(-3000, 3000, 640 * 3000).astype(np.int16)


async def watch():
    client = LipstreamClient(url)
    stream = client.speak(avatar, sound, chunk_frames=5)
    kept.append((client, stream))
    try:
        await anext(stream)  # and four requests more are under way
    except LipstreamError:
        pass  # a server that has 200 of them at once may well be busy


async def main():
    await asyncio.gather(*(watch() for _ in range(count)))
    print("watching", flush=True)
    await asyncio.sleep(600)


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def served(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with serving(catalogue.avatars, "--load", catalogue.ids[0], log=log) as server:
        yield server


@pytest.mark.faults
async def test_200_clients_that_vanish_leave_nothing(served: Served, catalogue: Catalogue) -> None:
    async with (
        AvatarPool([served.url], PoolSettings(most=2)) as pool,
        viewers(pool, catalogue.ids[1:3], VIEWERS, catalogue.source) as streams,
    ):
        await streams.each_served_since(0, WAIT_S)
        before = handles(served.triton)
        crowd = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", VANISHER, served.url, catalogue.ids[0], str(VANISHING)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert crowd.stdout
        async with asyncio.timeout(WAIT_S):
            assert await crowd.stdout.readline() == b"watching\n"
            assert handles(served.triton) >= before + VANISHING
            crowd.send_signal(signal.SIGKILL)
            await crowd.wait()
            while handles(served.triton) > before + SPARE_HANDLES:
                await asyncio.sleep(0.1)
        await streams.each_served_since(asyncio.get_running_loop().time(), WAIT_S)
    assert not [utterance for utterance in streams.all() if utterance.error]
    health = await asyncio.to_thread(served.health)
    assert (health["repairs"], health["restarts"]) == (0, 0)


async def test_connections_that_are_cut_in_the_middle_of_a_chunk(
    served: Served, catalogue: Catalogue
) -> None:
    patient = RetryPolicy(attempts=60, longest_delay_s=0.5)
    async with (
        cutting_proxy(served.url) as proxy,
        AvatarPool([proxy.url], PoolSettings(most=2), retry=patient) as unlucky,
        AvatarPool([served.url], PoolSettings(most=2)) as pool,
        viewers(pool, catalogue.ids[2:], VIEWERS // 2, catalogue.source) as others,
        viewers(unlucky, catalogue.ids[:2], VIEWERS // 2, catalogue.source, seed=1) as cut,
    ):
        await cut.until(lambda: proxy.cuts >= CUTS, WAIT_S)
        proxy.cutting = False
        now_s = asyncio.get_running_loop().time()
        await cut.each_served_since(now_s, WAIT_S)
        await others.each_served_since(now_s, WAIT_S)
    # What a cut has cost was sent again: nobody saw anything of it.
    assert not [utterance for utterance in [*others.all(), *cut.all()] if utterance.error]


def handles(pid: int) -> int:
    """Open files and connections of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@dataclass
class Proxy:
    """Hands bytes on to a server and back; while `cutting`, breaks connections in the middle of an answer."""

    server: str
    chance: random.Random
    url: str = ""
    cutting: bool = True
    cuts: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        host, port = self.server.rsplit(":", 1)
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        left = self.chance.randrange(20_000, 200_000)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.wait(
                [
                    asyncio.create_task(self.pass_on(reader, up_writer, None)),
                    asyncio.create_task(self.pass_on(up_reader, writer, left)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        for end in (writer, up_writer):
            end.transport.abort()

    async def pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None
    ) -> None:
        """Until the connection ends, or `left` bytes have gone and it is cut."""
        with suppress(ConnectionError):
            while data := await reader.read(8192):
                if left is not None:
                    left -= len(data)
                    if self.cutting and left <= 0:
                        writer.write(data[: len(data) // 2])
                        self.cuts += 1
                        return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def cutting_proxy(server: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(server, random.Random(0))
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    proxy.url = f"{host}:{port}"
    try:
        yield proxy
    finally:
        listening.close()
