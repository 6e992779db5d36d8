"""Do two networks share a folder of cached engines? Then one of them would draw with the other's weights.

onnxruntime's TensorRT provider finds a cached engine by the model's file name, its inputs and outputs, all of which
two avatars have in common, and never by its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from compositor_backend.pack import file_sha256
from export.engine_configs import CACHE_KEY_LENGTH
from export.model_configs import PRODUCTION_CONFIG, read_config

_ON = ("1", "true")


@dataclass(frozen=True)
class Cache:
    """Where a model's config has its engines cached; `path` is None where it does not say."""

    model: str
    config: Path
    path: Path | None
    prefix: str


@dataclass(frozen=True)
class SharedCache:
    """Models whose caches are not their own, and what is wrong, in a sentence."""

    models: tuple[str, ...]
    text: str


def shared_caches(root: Path) -> list[SharedCache]:
    """What is wrong with the engine caches of all models in the repository `root`, hand-made configs included.

    Two caches in one folder, one inside another, none named (which is the server's working folder for all), no
    prefix, or a path that is not bound to the model's weights. Configs that do not parse are left to `check`.
    """
    caches = list(_caches(root))
    found = [problem for cache in caches for problem in _alone(root, cache)]
    for number, first in enumerate(caches):
        found += [problem for second in caches[number + 1 :] for problem in _together(first, second)]
    return found


def _caches(root: Path) -> Iterator[Cache]:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            continue
        for path in (folder / PRODUCTION_CONFIG, *sorted((folder / "configs").glob("*.pbtxt"))):
            try:
                config = read_config(path)
            except (OSError, UnicodeDecodeError, text_format.ParseError):
                continue
            yield from _caches_of(root, folder.name, path, config)


def _caches_of(root: Path, model: str, path: Path, config: pb.ModelConfig) -> Iterator[Cache]:
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        given = accelerator.parameters
        if accelerator.name != "tensorrt" or given.get("trt_engine_cache_enable", "").lower() not in _ON:
            continue
        text = given.get("trt_engine_cache_path", "")
        # Relative paths are relative to the server's working folder, which is `root`.
        folder = (root / text).resolve() if text else None
        yield Cache(model, path, folder, given.get("trt_engine_cache_prefix", ""))


def _alone(root: Path, cache: Cache) -> Iterator[SharedCache]:
    """What is wrong with a cache by itself."""
    if cache.path is None:
        yield SharedCache(
            (cache.model,),
            f"{cache.config} caches engines without trt_engine_cache_path: in the server's working folder, which all "
            "models share; a folder of its own is wanted",
        )
        return
    if not cache.prefix:
        yield SharedCache(
            (cache.model,),
            f"{cache.config} caches engines without trt_engine_cache_prefix; one of the model's own is wanted",
        )
    source = root / cache.model / "1" / "model.onnx"
    if source.is_file() and file_sha256(source)[:CACHE_KEY_LENGTH] not in cache.path.name:
        yield SharedCache(
            (cache.model,),
            f"{cache.config} caches engines in {cache.path}, which does not name the weights of {source}: engines "
            "of other weights may lie there; python -m export engine writes the config anew",
        )


def _together(first: Cache, second: Cache) -> Iterator[SharedCache]:
    """What is wrong with two caches. Configs of the same model are two ways to serve the same weights."""
    if first.model == second.model or first.path is None or second.path is None:
        return
    models = (first.model, second.model)
    if first.path == second.path:
        yield SharedCache(
            models,
            f"{first.config} and {second.config} cache engines in the same folder {first.path}: one would draw with "
            "the other's weights",
        )
    elif _holds(first.path, second.path) or _holds(second.path, first.path):
        yield SharedCache(
            models,
            f"{first.config} caches engines in {first.path}, {second.config} in {second.path}, one in the other",
        )
    elif first.prefix and first.prefix == second.prefix:
        yield SharedCache(
            models,
            f"{first.config} and {second.config} have the same trt_engine_cache_prefix {first.prefix!r}",
        )


def _holds(outer: Path, inner: Path) -> bool:
    return inner.is_relative_to(outer)


def sentences(problems: Sequence[SharedCache], model: str) -> str:
    """What is said of the model's cache; empty if all is well with it."""
    return "; ".join(problem.text for problem in problems if model in problem.models)
