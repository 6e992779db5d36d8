"""Do two networks share a folder of cached engines? Then one of them would draw with the other's weights.

onnxruntime's TensorRT provider finds a cached engine by the model's file name, its inputs and outputs, all of which
two avatars have in common, and never by its weights.
"""

from __future__ import annotations

import itertools
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
    return [*found, *_same_folders(caches), *_nested_folders(caches), *_same_prefixes(caches)]


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


def _same_folders(caches: Sequence[Cache]) -> Iterator[SharedCache]:
    for path, users in _by_path(caches).items():
        models = sorted({cache.model for cache in users})
        # Configs of the same model are two ways to serve the same weights.
        if len(models) > 1:
            configs = " and ".join(str(cache.config) for cache in users)
            yield SharedCache(
                tuple(models),
                f"{configs} cache engines in the same folder {path}: one would draw with the other's weights",
            )


def _nested_folders(caches: Sequence[Cache]) -> Iterator[SharedCache]:
    users = _by_path(caches)
    for inner, inner_users in users.items():
        for outer in (parent for parent in inner.parents if parent in users):
            for first, second in itertools.product(users[outer], inner_users):
                if first.model != second.model:
                    yield SharedCache(
                        (first.model, second.model),
                        f"{first.config} caches engines in {outer}, and {second.config} inside it, in {inner}; "
                        "folders beside each other are wanted",
                    )


def _same_prefixes(caches: Sequence[Cache]) -> Iterator[SharedCache]:
    prefixes: dict[str, list[Cache]] = {}
    for cache in caches:
        prefixes.setdefault(cache.prefix, []).append(cache)
    for prefix, users in prefixes.items():
        models = sorted({cache.model for cache in users})
        if prefix and len(models) > 1:
            configs = " and ".join(str(cache.config) for cache in users)
            yield SharedCache(tuple(models), f"{configs} have the same trt_engine_cache_prefix {prefix!r}")


def _by_path(caches: Sequence[Cache]) -> dict[Path, list[Cache]]:
    users: dict[Path, list[Cache]] = {}
    for cache in caches:
        if cache.path is not None:
            users.setdefault(cache.path, []).append(cache)
    return users
