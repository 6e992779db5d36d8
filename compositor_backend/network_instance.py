"""A model instance that computes with networks, as Triton's Python backend wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compositor_backend import triton
from compositor_backend.audio_encoder import AudioEncoder
from compositor_backend.contract import AVATAR_ID_PATTERN
from compositor_backend.errors import LipstreamError
from compositor_backend.lipsync import Lipsync
from compositor_backend.memory import Rest
from compositor_backend.network_cache import CacheCounts
from compositor_backend.network_host import NetworkHost, NetworkModel
from compositor_backend.onnx_runtime import Device, Runtime, usable_cpus
from compositor_backend.pack import AvatarFolder, FacePack, PackCache
from compositor_backend.settings import Settings

_FIGURES = (
    ("resident", "lipstream_networks_resident", "Networks in memory"),
    ("resident_bytes", "lipstream_networks_resident_bytes", "Size of the graphs of the networks in memory"),
)
_COUNTERS = (
    ("hits", "lipstream_networks_hits_total", "Requests whose network was in memory"),
    ("misses", "lipstream_networks_misses_total", "Requests that waited for their network"),
    ("loads", "lipstream_networks_loads_total", "Networks opened"),
    ("failures", "lipstream_networks_load_failures_total", "Networks that could not be opened"),
    ("evictions", "lipstream_networks_evictions_total", "Networks that made room for others"),
    ("load_seconds", "lipstream_networks_load_seconds_total", "Time that opening networks took"),
)


class NetworkInstance:
    """One instance of `lipsync` or `audio_encoder`: a process with its networks."""

    def __init__(self, model: NetworkModel[Any], settings: Settings, args: Mapping[str, str]) -> None:
        runtime = Runtime(
            _device(args),
            threads=_threads(args),
            scratch_bytes=settings.scratch_bytes,
            cache_folder=settings.cache_folder,
            load_timeout_s=settings.load_timeout_s,
            warn=triton.log_warning,
        )
        # Kept: metrics end with the families that they belong to.
        self._metrics = triton.Metrics(args)
        self._host: NetworkHost[Any] = NetworkHost(
            model,
            runtime.open,
            settings.network_cache_bytes,
            report=_reporter(self._metrics),
            warn=triton.log_warning,
        )
        self._rest = Rest()
        _warm(self._host, settings.warm_avatars or _first_avatar(settings, runtime.device))

    @classmethod
    def of_lipsync(cls, args: Mapping[str, str]) -> NetworkInstance:
        """The instance that Triton describes to ``initialize``: on a GPU with half precision where an avatar has it."""
        settings = triton.model_settings(args)
        half_precision = _device(args).kind == "GPU"
        return cls(
            Lipsync(PackCache.from_settings(settings, FacePack), half_precision=half_precision),
            settings,
            args,
        )

    @classmethod
    def of_audio_encoder(cls, args: Mapping[str, str]) -> NetworkInstance:
        """The instance that Triton describes to ``initialize``."""
        settings = triton.model_settings(args)
        return cls(AudioEncoder(PackCache.from_settings(settings, AvatarFolder)), settings, args)

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request in order, None for one that is answered later."""
        responses = self._host.answer([triton.Exchange(request) for request in requests])
        self._rest.worked()
        return responses

    def close(self) -> None:
        """End the instance's threads."""
        self._host.close()


def _device(args: Mapping[str, str]) -> Device:
    return Device(args["model_instance_kind"], int(args["model_instance_device_id"]))


def _threads(args: Mapping[str, str]) -> int:
    """The instances of a model on a CPU share its cores; one on a GPU needs a thread to feed it."""
    if _device(args).kind == "GPU":
        return 1
    groups = json.loads(args["model_config"]).get("instance_group", [])
    instances = sum(int(group.get("count", 1)) for group in groups)
    return max(1, usable_cpus() // max(1, instances))


def _first_avatar(settings: Settings, device: Device) -> list[str]:
    """On a GPU, which takes seconds to get ready for an architecture, the first avatar that there is."""
    if device.kind == "CPU" or not settings.avatars_folder.is_dir():
        return []
    names = [
        path.name for path in settings.avatars_folder.iterdir() if AVATAR_ID_PATTERN.fullmatch(path.name)
    ]
    return sorted(names)[:1]


def _warm(host: NetworkHost[Any], avatars: Sequence[str]) -> None:
    for avatar_id in avatars:
        try:
            host.warm(avatar_id)
        except LipstreamError as error:
            triton.log_warning(f"{avatar_id} is not warmed: {error}")


def _reporter(metrics: triton.Metrics) -> Callable[[CacheCounts], None]:
    setters = [(field, metrics.gauge(name, text)) for field, name, text in _FIGURES]
    setters += [(field, metrics.counter(name, text)) for field, name, text in _COUNTERS]
    told = CacheCounts()

    def report(counts: CacheCounts) -> None:
        nonlocal told
        before, told = told, counts
        for field, setter in setters:
            if getattr(counts, field) != getattr(before, field):
                setter(getattr(counts, field))

    return report
