from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compositor_backend.compositor import compose
from perf.baselines.single_process import SingleProcess
from perf.null_network import KEY
from perf.subjects import decode
from tests.support.scenes import keys
from tests.unit.perf.baselines.scene import null_network, pack_and_material, psnr_db, silence


@pytest.mark.parametrize("batch", [1, 2])
def test_frames_look_like_lipstreams(tmp_path: Path, batch: int) -> None:
    pack, material = pack_and_material(tmp_path)
    template = [0, 3, 1]
    found = SingleProcess(null_network(tmp_path), material, batch).frames(template, silence(3))
    mouths = np.ascontiguousarray(pack.faces[template].transpose(0, 2, 3, 1))
    ours = compose(pack, np.array(template), mouths, keys(3, KEY))
    assert len(found) == 3
    for theirs, spliced in zip(found, ours, strict=True):
        # Other filters, and noise all over the picture: no colour is exchanged and nothing is misplaced.
        assert psnr_db(decode(theirs), decode(bytes(spliced))) > 25


def test_backgrounds_are_not_drawn_upon(tmp_path: Path) -> None:
    _, material = pack_and_material(tmp_path)
    process = SingleProcess(null_network(tmp_path), material)
    assert process.frames([1], silence(1)) == process.frames([1], silence(1))
