"""What every case of a run is given: how long to measure, where to work, a server to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.side_by_side import Settings
from perf.subjects import build_null_avatar
from server.launcher import TritonServer
from server.settings import ROOT, ServerSettings

DEFAULT_AVATARS = Path("avatars")
DEFAULT_OUT = Path("out/perf")


@dataclass(frozen=True)
class Bench:
    """A run of measurements.

    `quick` measures each thing just long enough to see it; otherwise long enough to compare. `avatars` holds the
    demo's avatar; what is made for measuring goes to `work`. `tell` shows a line of progress.
    """

    quick: bool
    avatars: Path
    work: Path
    tell: Callable[[str], None]
    gpu: bool = False

    @property
    def settings(self) -> Settings:
        """How long systems are measured side by side within a process."""
        return Settings(40, 0.5, 3) if self.quick else Settings(300, 4.0, 10)

    @property
    def span_s(self) -> float:
        """How long a scenario with a server is measured, burn-in aside."""
        return 2.0 if self.quick else 8.0

    @property
    def burn_in_s(self) -> float:
        """How long a scenario runs before it is measured."""
        return 0.5 if self.quick else 2.0

    @property
    def work_avatars(self) -> Path:
        """The folder of the avatars made for measuring."""
        return self.work / "avatars"

    def null_avatar(self, size: str = "1280x720", frames: int = 50) -> str:
        """The id of an avatar with the null network and frames of that size, built now if it is not there."""
        avatar_id = f"null-{size}-{frames}"
        self.tell(f"building {avatar_id}")
        build_null_avatar(self.work_avatars, self.avatars, avatar_id, size, frames)
        return avatar_id

    def null_pack(self, size: str, frames: int) -> Path:
        """The pack of such an avatar."""
        return self.work_avatars / self.null_avatar(size, frames)

    @contextmanager
    def serving(
        self,
        avatars: Path,
        model_repository: Path = ROOT / "model_repository",
        options: Sequence[str] = (),
        networks_mib: int | None = None,
    ) -> Iterator[TritonServer]:
        """A Triton of its own on free ports, its optimised graphs in the work folder; gone when the block ends."""
        settings = ServerSettings(
            model_repository=model_repository,
            avatars=avatars,
            cache=self.work / "graphs",
            networks_mib=networks_mib,
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            gpu=self.gpu,
            log=self.work / "triton.log",
            triton_options=tuple(options),
        )
        with TritonServer(settings) as server:
            yield server
