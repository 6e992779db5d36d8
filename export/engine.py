"""Builds the engine that serves a network, proves it equal to the network's graph, and puts it in place whole."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import onnx

from compositor_backend import contract
from compositor_backend.contract import Model
from compositor_backend.manifest import Manifest
from compositor_backend.pack import file_sha256
from export import model_configs
from export.atomic import publish, replacing, staging
from export.engine_accelerator import build_cache, provider_is_here
from export.engine_configs import (
    CACHE_FOLDER,
    HALF_FILE,
    PLAN_FILE,
    cache_path,
    engine_config,
    write_engine_config,
)
from export.engine_graph import engine_graph, face_as_numbers
from export.engine_record import RECORD_FILE, EngineRecord, Platform, reasons_to_build
from export.engine_settings import ACCELERATOR, PLAN, Batches, EngineSettings
from export.errors import ExportError
from export.model_configs import Network
from export.picture_parity import (
    Inputs,
    Outputs,
    PictureLimits,
    PictureParity,
    Run,
    compare,
    run_graph,
    trial_inputs,
)
from export.precision import LIMITS, check_range, halve, precision_of
from export.served_graph import inspect_network

VERSION = "1"
SOURCE = Path(VERSION) / "model.onnx"
TIMED_BATCHES = (1, 8, 25, 32)
_ENGINE_FILES = (PLAN_FILE, HALF_FILE, RECORD_FILE, CACHE_FOLDER)


class Engine(Protocol):
    """An engine that was loaded."""

    def run(self, inputs: Inputs) -> Outputs:
        """What it answers."""

    def milliseconds(self, inputs: Inputs) -> float:
        """The median of what a run takes."""


class Built(Protocol):
    """What a builder gives."""

    @property
    def plan(self) -> bytes:
        """The engine."""

    @property
    def timing_cache(self) -> bytes:
        """What the builder has measured, for the next build."""


class Builder(Protocol):
    """What turns graphs into engines: TensorRT on a GPU (`tensorrt_builder.TensorRTBuilder`)."""

    @property
    def platform(self) -> Platform:
        """Where its engines run."""

    def build(self, name: str, graph: bytes, model: Model, batches: Batches, timing_cache: bytes) -> Built:
        """An engine of an ONNX graph."""

    def engine(self, name: str, plan: bytes) -> AbstractContextManager[Engine]:
        """An engine, ready to run."""


MakeBuilder = Callable[[], Builder]


@dataclass(frozen=True)
class Outcome:
    """What became of a network's engine; `why` says why it was built, None if it was up to date.

    `text` is what to tell the user.
    """

    network: str
    why: str | None
    text: str


def network_of(avatars: Path, avatar_id: str) -> str:
    """The name of the model that draws an avatar's mouth; `LipstreamError` if the avatar is not there."""
    return Manifest.load(avatars / contract.avatar_ensemble_name(avatar_id)).network


def tensorrt_builder() -> Builder:
    """TensorRT on the first GPU; `ExportError` that says what is missing."""
    from export.tensorrt_builder import TensorRTBuilder

    return TensorRTBuilder()


def build_engine(
    avatars: Path,
    network: str,
    settings: EngineSettings,
    make_builder: MakeBuilder = tensorrt_builder,
    *,
    force: bool = False,
    limits: PictureLimits = LIMITS,
) -> Outcome:
    """Build the engine of the model `network`, unless it is up to date; `force` builds it anyway.

    An `ExportError` says what is wrong; model, config and the engine before then are as they were.
    """
    folder = avatars / network
    source = folder / SOURCE
    if not source.is_file():
        raise ExportError(f"{source} is not there; import the avatar first")
    builder = make_builder() if settings.form == PLAN else None
    platform = builder.platform if builder else Platform()
    sha256 = file_sha256(source)
    why = reasons_to_build(folder, settings, platform, sha256, _engine_sha256(folder, settings))
    if why is None and not force:
        return Outcome(network, None, "up to date")
    job = _Job(avatars, network, settings, sha256, limits)
    record = job.build(builder, platform)
    return Outcome(network, why or "it was asked for", _told(record))


def remove_engine(avatars: Path, network: str) -> Outcome:
    """Let a model be served as it was imported: ``model.onnx``, on onnxruntime."""
    folder = avatars / network
    source = folder / SOURCE
    if not source.is_file():
        raise ExportError(f"{source} is not there; import the avatar first")
    if not (folder / RECORD_FILE).exists():
        return Outcome(network, None, "it has no engine")
    found = inspect_network(source)
    with staging(avatars) as stage:
        _copy_model(folder, stage / network)
        model_configs.write_lipsync(stage / network, found.named(network))
        publish(avatars, stage, lambda: [network])
    return Outcome(network, "it was asked for", "served from model.onnx")


@dataclass(frozen=True)
class _Job:
    """One engine to build."""

    avatars: Path
    network: str
    settings: EngineSettings
    sha256: str
    limits: PictureLimits

    def build(self, builder: Builder | None, platform: Platform) -> EngineRecord:
        start = time.perf_counter()
        try:
            with staging(self.avatars) as stage:
                folder = stage / self.network
                _copy_model(self.avatars / self.network, folder)
                named = inspect_network(folder / SOURCE, self.avatars / self.network / SOURCE).named(
                    self.network
                )
                record = self._make(folder, named, builder, platform)
                self._write_config(folder, named)
                record = replace(record, seconds=round(time.perf_counter() - start, 1))
                record.save(folder)
                publish(self.avatars, stage, self._still_the_same)
        except OSError as error:
            raise ExportError(f"{self.avatars} cannot be written: {error.strerror or error}") from error
        return record

    def _make(
        self, folder: Path, named: Network, builder: Builder | None, platform: Platform
    ) -> EngineRecord:
        if builder is not None:
            return self._make_plan(folder, named, builder, platform)
        if self.settings.form == ACCELERATOR:
            return self._make_accelerator(folder, named)
        return self._make_graph(folder)

    def _still_the_same(self) -> list[str]:
        """The folder to exchange, unless another network has taken the place of the one that this engine is of."""
        current = self.avatars / self.network / SOURCE
        if not current.is_file() or file_sha256(current) != self.sha256:
            raise ExportError(f"{current} was replaced while its engine was built; build it again")
        return [self.network]

    def _write_config(self, folder: Path, named: Network) -> None:
        face = ""
        if self.settings.form == ACCELERATOR:
            face = face_as_numbers(onnx.load(str(folder / SOURCE), load_external_data=False))
        config = engine_config(named, self.settings, self.sha256, face)
        write_engine_config(folder, config, self.settings)

    # --- TensorRT ---
    def _make_plan(self, folder: Path, named: Network, builder: Builder, platform: Platform) -> EngineRecord:
        cache = self.avatars / timing_cache_name(platform)
        graph = self._graph_for_tensorrt(folder)
        known = cache.read_bytes() if cache.is_file() else b""
        built = builder.build(self.network, graph, named.model, self.settings.batches, known)
        plan = folder / VERSION / PLAN_FILE
        plan.write_bytes(built.plan)
        reference = run_graph(folder / SOURCE)
        with builder.engine(self.network, built.plan) as engine:
            parity = self._compare(named, engine.run, reference)
            times = self._measure(named, engine)
        with replacing(cache) as draft:
            draft.write_bytes(built.timing_cache)
        record = self._record(platform, parity)
        return replace(
            record,
            file=str(plan.relative_to(folder)),
            file_sha256=file_sha256(plan),
            milliseconds=times,
            timing_cache=cache.name,
        )

    def _graph_for_tensorrt(self, folder: Path) -> bytes:
        source, called = folder / SOURCE, self.avatars / self.network / SOURCE
        if self._is_to_be_halved(source):
            halved = folder.parent / "halved.onnx"
            halve(source, halved, self.limits, called)
            source = halved
        graph = engine_graph(str(called), onnx.load(str(source)))
        return bytes(graph.SerializeToString())

    def _is_to_be_halved(self, source: Path) -> bool:
        there = precision_of(source)
        if (there, self.settings.precision) == ("fp16", "fp32"):
            raise ExportError(
                f"{self.avatars / self.network / SOURCE} is in fp16 already; import the avatar again "
                "for an engine in fp32"
            )
        return there != self.settings.precision

    def _compare(self, named: Network, candidate: Run, reference: Run) -> PictureParity:
        inputs = trial_inputs(named.network_px, named.audio_shape, self.settings.batches.sizes)
        return compare(f"the engine of {self.network}", candidate, reference, inputs, self.limits)

    def _measure(self, named: Network, engine: Engine) -> dict[str, float]:
        batches = [batch for batch in TIMED_BATCHES if batch <= self.settings.batches.largest]
        inputs = trial_inputs(named.network_px, named.audio_shape, batches)
        return {
            str(batch): round(engine.milliseconds(given), 3)
            for batch, given in zip(batches, inputs, strict=True)
        }

    # --- onnxruntime ---
    def _make_accelerator(self, folder: Path, named: Network) -> EngineRecord:
        (folder.parent / cache_path(self.network, self.sha256)).mkdir(parents=True)
        source = folder / SOURCE
        if self._is_to_be_halved(source):
            called = self.avatars / self.network / SOURCE
            check_range(called, onnx.load(str(source)), inspect_network(source, called))
        if not provider_is_here():
            return self._record(Platform(), None)
        face = face_as_numbers(onnx.load(str(source), load_external_data=False))
        config = engine_config(named, self.settings, self.sha256, face)
        parity = self._compare(named, build_cache(config, folder / VERSION), run_graph(source))
        return self._record(Platform(), parity)

    def _make_graph(self, folder: Path) -> EngineRecord:
        source, halved = folder / SOURCE, folder / VERSION / HALF_FILE
        if not self._is_to_be_halved(source):
            raise ExportError(
                f"{self.avatars / self.network / SOURCE} is in {self.settings.precision} already, and served so"
            )
        parity = halve(source, halved, self.limits, self.avatars / self.network / SOURCE)
        record = self._record(Platform(), parity)
        return replace(record, file=str(halved.relative_to(folder)), file_sha256=file_sha256(halved))

    def _record(self, platform: Platform, parity: PictureParity | None) -> EngineRecord:
        return EngineRecord(
            form=self.settings.form,
            precision=self.settings.precision,
            batches=str(self.settings.batches),
            model_sha256=self.sha256,
            platform=platform,
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seconds=0.0,
            psnr_db=round(parity.psnr_db, 2) if parity else None,
            max_difference=parity.max_difference if parity else None,
            frames=parity.frames if parity else 0,
        )


def timing_cache_name(platform: Platform) -> str:
    """The file in the folder of all avatars in which their builds share what they measured on that GPU."""
    gpu = "".join(letter if letter.isalnum() else "-" for letter in platform.gpu)
    return f".tensorrt-{platform.tensorrt}-{gpu}-{platform.compute_capability}.timing"


def _copy_model(folder: Path, copy: Path) -> None:
    """The model without the engine that it has."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*_ENGINE_FILES))


def _engine_sha256(folder: Path, settings: EngineSettings) -> str | None:
    """The SHA-256 of the engine's file as it lies there."""
    names = {PLAN: PLAN_FILE, ACCELERATOR: None}
    name = names.get(settings.form, HALF_FILE)
    path = folder / VERSION / name if name else None
    return file_sha256(path) if path is not None and path.is_file() else None


def _told(record: EngineRecord) -> str:
    """What was built, in a line."""
    parts = [f"{record.form} in {record.precision}"]
    if record.psnr_db is None or record.max_difference is None:
        parts.append("not compared: no TensorRT provider here; its first load on a GPU builds the engine")
    else:
        parts.append(str(PictureParity(record.psnr_db, record.max_difference, record.frames)))
    parts += [f"{batch}: {time_ms:g} ms" for batch, time_ms in record.milliseconds.items()]
    return "; ".join(parts)
