from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from compositor_backend.jpeg import JpegSettings, encode
from perf.baselines.whole_jpeg import WholeJpegEncoder
from tests.support.scenes import textured


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
@pytest.mark.parametrize("quality", [30, 75, 98])
def test_the_bytes_are_those_of_the_encoder_that_lipstream_uses(quality: int, subsampling: str) -> None:
    encoder = WholeJpegEncoder(quality, subsampling)
    for width, height in ((97, 61), (320, 240), (97, 61)):
        pixels = textured(width, height, 1)
        assert encoder(pixels) == encode(pixels, JpegSettings(quality, subsampling))


def test_threads_do_not_disturb_each_other() -> None:
    encoder = WholeJpegEncoder(75, "420")
    pictures = [textured(64 + 16 * (seed % 3), 48, seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder, pictures))
    assert found == [encode(picture, JpegSettings(75, "420")) for picture in pictures]


def test_random_noise_fits_its_buffer() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert WholeJpegEncoder(100, "444")(noise) == encode(noise, JpegSettings(100, "444"))
