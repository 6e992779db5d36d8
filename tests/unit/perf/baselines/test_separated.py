from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compositor_backend.compositor import compose
from perf.baselines.float_graph import BaselineError, float_graph, float_model
from perf.baselines.separated import SeparatedClient, build_separated
from perf.null_network import KEY
from perf.subjects import decode
from tests.support.config_contract import assert_config_matches, read_config
from tests.support.scenes import keys
from tests.unit.perf.baselines.scene import LocalTransport, null_network, pack_and_material, silence


@pytest.mark.parametrize("blend", ["hard", "feather"])
async def test_frames_have_exactly_lipstreams_pixels(tmp_path: Path, blend: str) -> None:
    pack, material = pack_and_material(tmp_path, blend)
    template = [0, 3, 1, 1, 2]
    async with SeparatedClient(LocalTransport(null_network(tmp_path)), "separated_ann", material) as client:
        found = await client.frames(template, silence(5))
    # The null network draws the face that it was shown.
    mouths = np.ascontiguousarray(pack.faces[template].transpose(0, 2, 3, 1))
    ours = compose(pack, np.array(template), mouths, keys(5, KEY))
    for theirs, spliced in zip(found, ours, strict=True):
        np.testing.assert_array_equal(decode(theirs), decode(bytes(spliced)))


async def test_a_batch_is_one_request_of_floats(tmp_path: Path) -> None:
    _, material = pack_and_material(tmp_path)
    transport = LocalTransport(null_network(tmp_path))
    async with SeparatedClient(transport, "separated_ann", material, threads=1) as client:
        await client.frames([0, 1, 2], silence(3))
    inputs = {"INPUT": ("float32", (3, 6, 320, 320)), "AUDIO": ("float32", (3, 32, 16, 16))}
    assert transport.requests == [("separated_ann", inputs)]
    assert transport.closed


async def test_backgrounds_are_not_drawn_upon(tmp_path: Path) -> None:
    _, material = pack_and_material(tmp_path)
    before = material.frames.copy()
    async with SeparatedClient(LocalTransport(null_network(tmp_path)), "separated_ann", material) as client:
        first = await client.frames([0, 1], silence(2))
        assert await client.frames([0, 1], silence(2)) == first
    np.testing.assert_array_equal(material.frames, before)


def test_the_model_has_the_avatars_network_and_a_config_for_triton(tmp_path: Path) -> None:
    served = tmp_path / "avatars" / "ann" / "network.onnx"
    served.parent.mkdir(parents=True)
    null_network(tmp_path).rename(served)
    for _ in range(2):  # a second time, over the first
        folder = build_separated(tmp_path / "repository", tmp_path / "avatars", "ann")
    assert folder == tmp_path / "repository" / "separated_ann"
    assert onnx.load(str(folder / "1" / "model.onnx")) == float_graph(served)
    assert (folder / "1" / "model.py").is_file()
    config = read_config(folder / "config.pbtxt")
    assert_config_matches(config, float_model("separated_ann", 320, (32, 16, 16)))
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")


def test_an_avatar_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"there is no .*ann/network\.onnx"):
        build_separated(tmp_path / "repository", tmp_path, "ann")
