"""Imported avatars on a real Triton: it loads what `export` writes, and draws what the networks say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, model_config_pb2
from tritonclient.utils import InferenceServerException

from compositor_backend import contract
from compositor_backend.avatar_frames import gather_faces
from compositor_backend.compositor import compose
from compositor_backend.pack import AvatarPack
from compositor_backend.timeline import template_frames
from compositor_backend.windows import network_audio, request_windows
from export.atomic import staging
from export.avatar import NetworkSource, build_avatar
from export.frames import open_frames
from export.model_configs import EMBEDDED_CONFIG, PRODUCTION_CONFIG, read_config
from tests.support.avatar_sources import BOXES, KEY, Sources, drawn_mouth, network_graph
from tests.support.triton import running_triton

pytestmark = pytest.mark.functional

FRAMES = np.arange(3, 10, dtype=np.int32)
HUBERT = (16, 32, 32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The avatars ``ann``, with an encoder, and ``bob``, of the 160 family without one."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings("ann"), open_frames(sources.frames), BOXES)
    onnx.save(network_graph(7, 160, HUBERT), str(sources.network))
    settings = sources.settings(
        "bob", network=NetworkSource(sources.network), encoder=None, encoder_name=None, blend="feather"
    )
    build_avatar(settings, open_frames(sources.frames), BOXES)
    return sources


@pytest.fixture(scope="module")
def client(sources: Sources) -> Iterator[InferenceServerClient]:
    with (
        running_triton(avatars=sources.avatars, load=("ann", "bob")) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        yield client


def ask(client: InferenceServerClient, model: str, **inputs: NDArray[Any]) -> list[bytes]:
    tensors = []
    for name, array in inputs.items():
        kind = {"object": "BYTES", "int32": "INT32", "int16": "INT16", "float32": "FP32"}[array.dtype.name]
        tensors.append(grpcclient.InferInput(name, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(array)
    outputs = [grpcclient.InferRequestedOutput("JPEG")]
    return list(client.infer(model, tensors, outputs=outputs).as_numpy("JPEG"))


def avatar(avatar_id: str) -> NDArray[Any]:
    return np.array([avatar_id.encode()], object)


def composed(avatars: Path, avatar_id: str, audio: NDArray[np.float32], key: int) -> list[bytes]:
    """What the server should answer, computed beside it."""
    with AvatarPack(avatars / f"avatar_{avatar_id}") as pack:
        template = template_frames(FRAMES, pack.frames)
        mouth = drawn_mouth(gather_faces(pack, template), audio)
        return compose(pack, template, mouth, np.full((len(FRAMES), 1), key, np.int64))


def test_speech_becomes_the_frames_that_the_networks_draw(
    client: InferenceServerClient, sources: Sources
) -> None:
    rng = np.random.default_rng(0)
    pcm = rng.integers(-9000, 9000, contract.pcm_samples(len(FRAMES))).astype(np.int16)
    session = onnxruntime.InferenceSession(str(sources.encoder))
    (embedding,) = session.run(["EMBEDDING"], {"MEL": request_windows(pcm)})
    expected = composed(sources.avatars, "ann", network_audio(embedding, (32, 16, 16)), KEY)
    assert ask(client, "avatar_ann", AVATAR=avatar("ann"), FRAME_INDEX=FRAMES, PCM=pcm) == expected


@pytest.mark.parametrize(("avatar_id", "shape", "key"), [("ann", (32, 16, 16), KEY), ("bob", HUBERT, 7)])
def test_ready_features_too(
    client: InferenceServerClient, sources: Sources, avatar_id: str, shape: tuple[int, ...], key: int
) -> None:
    rng = np.random.default_rng(1)
    audio = rng.uniform(-2, 8, (len(FRAMES), *shape)).astype(np.float32)
    found = ask(client, f"features_{avatar_id}", AVATAR=avatar(avatar_id), FRAME_INDEX=FRAMES, AUDIO=audio)
    assert found == composed(sources.avatars, avatar_id, audio, key)


def test_features_are_checked_on_their_way(client: InferenceServerClient) -> None:
    audio = np.zeros((len(FRAMES), 32, 16, 16), np.float32)
    audio[2, 5] = np.nan
    with pytest.raises(InferenceServerException, match="AUDIO holds NaN or infinity"):
        ask(client, "features_ann", AVATAR=avatar("ann"), FRAME_INDEX=FRAMES, AUDIO=audio)


@pytest.mark.parametrize("name", ["lipsync_ann", "lipsync_bob", "audio_encoder_tiny"])
def test_triton_runs_the_config_as_it_was_written(
    client: InferenceServerClient, sources: Sources, name: str
) -> None:
    """Nothing is completed, nothing is left out."""
    running: model_config_pb2.ModelConfig = client.get_model_config(name).config
    written = read_config(sources.avatars / name / EMBEDDED_CONFIG)
    for field in ("input", "output", "max_batch_size", "backend", "default_model_filename", "model_warmup"):
        assert getattr(running, field) == getattr(written, field), field
    batchings = [config.dynamic_batching for config in (running, written)]
    assert len({batching.max_queue_delay_microseconds for batching in batchings}) == 1
    assert not any(batching.HasField("default_queue_policy") for batching in batchings)
    (group,) = running.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)


def test_a_stage_is_no_model(client: InferenceServerClient, sources: Sources) -> None:
    """An import that is under way is an empty name in the index, which nobody can load."""
    with staging(sources.avatars) as stage:
        states = {model.name: model.state for model in client.get_model_repository_index().models}
        assert states["avatar_ann"] == "READY"
        assert states.get(stage.name, "") == ""
        with pytest.raises(InferenceServerException):
            client.load_model(stage.name)
        assert not client.is_model_ready(stage.name)
    assert stage.name not in {model.name for model in client.get_model_repository_index().models}


def test_an_avatar_is_served_that_was_imported_while_the_server_ran(
    client: InferenceServerClient, sources: Sources, tmp_path: Path
) -> None:
    other = Sources.write(tmp_path / "other", key=99, seed=7)
    build_avatar(
        other.settings("eve", avatars=sources.avatars, encoder=sources.encoder),
        open_frames(other.frames),
        BOXES,
    )
    client.load_model("features_eve")
    audio = np.ones((len(FRAMES), 32, 16, 16), np.float32)
    found = ask(client, "features_eve", AVATAR=avatar("eve"), FRAME_INDEX=FRAMES, AUDIO=audio)
    assert found == composed(sources.avatars, "eve", audio, 99)
    client.unload_model("features_eve", unload_dependents=True)


@pytest.mark.parametrize("name", ["lipsync_ann", "lipsync_bob", "audio_encoder_tiny"])
def test_triton_takes_the_production_configs(sources: Sources, tmp_path: Path, name: str) -> None:
    """Warm-up, rate limiter and all; only the kind of device is changed, so that no GPU is needed."""
    avatars = Path(shutil.copytree(sources.avatars, tmp_path / "avatars"))
    path = avatars / name / PRODUCTION_CONFIG
    text = path.read_text(encoding="utf-8")
    assert "kind: KIND_GPU" in text
    path.write_text(text.replace("KIND_GPU", "KIND_CPU").replace("count: 8", "count: 2"), encoding="utf-8")
    with (
        running_triton(gpu=True, models=(), avatars=avatars) as server,
        InferenceServerClient(server.grpc_url) as client,
    ):
        client.load_model(name)
        running, written = client.get_model_config(name).config, read_config(path)
        for field in ("input", "output", "max_batch_size", "backend", "model_warmup"):
            assert getattr(running, field) == getattr(written, field), field
        assert running.instance_group[0].count == 2
        assert running.instance_group[0].rate_limiter == written.instance_group[0].rate_limiter
        runs = client.get_inference_statistics(name).model_stats[0]
        assert {batch.batch_size for batch in runs.batch_stats} == {1, written.max_batch_size}
