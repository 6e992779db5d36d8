from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import simplejpeg
import turbojpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from compositor_backend.blend import paste
from compositor_backend.compositor import Compositor, changed_region, compose, compose_regions
from compositor_backend.errors import TensorError, UnknownAvatarError, WrongNetworkError
from compositor_backend.geometry import FAMILIES
from compositor_backend.idle_frames import IdleFrames
from compositor_backend.pack import AvatarPack, PackCache
from export.pack_writer import write_idle
from tests.support.scenes import KEY, Box, Pixels, keys, mouths, open_avatar, textured, write_avatar

JPEG = frozenset({"JPEG"})
SAMPLINGS = {"420": turbojpeg.Y420, "422": turbojpeg.Y422, "444": turbojpeg.Y444}


def composited(frame: Pixels, box: Box, mouth: Pixels, family: str = "328") -> Pixels:
    """The frame with the mouth pasted hard; how a paste looks is `test_blend`'s."""
    x1, y1, x2, y2 = box
    picture = frame.copy()
    paste(picture[y1:y2, x1:x2], mouth, FAMILIES[family], "hard")
    return picture


def full_encode(frame: Pixels, subsampling: str = "420", quality: int = 75) -> bytes:
    """The whole frame encoded at once, without restart markers."""
    jpeg: bytes = turbojpeg.compress(np.ascontiguousarray(frame), quality, SAMPLINGS[subsampling])
    return jpeg


def libjpeg_pixels(jpeg: bytes) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(jpeg, fastdct=False)
    return pixels


def ffmpeg_planes(jpeg: bytes) -> list[Pixels]:
    """Y, Cb and Cr by FFmpeg's decoder, which shares nothing with libjpeg."""
    decoder = av.CodecContext.create("mjpeg", "r")
    (frame,) = decoder.decode(av.Packet(jpeg)) + decoder.decode(None)
    return [
        np.frombuffer(memoryview(plane), np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width]
        .copy()
        for plane in frame.planes
    ]


def assert_same_picture(spliced: bytes, whole: bytes) -> None:
    np.testing.assert_array_equal(libjpeg_pixels(spliced), libjpeg_pixels(whole))
    for ours, theirs in zip(ffmpeg_planes(spliced), ffmpeg_planes(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def part_of(planes: list[Pixels], box: Box) -> list[Pixels]:
    """A region's part of a frame's planes, the last two of which may be smaller."""
    x1, y1, x2, y2 = box
    shrunk = [
        (round(planes[0].shape[1] / plane.shape[1]), round(planes[0].shape[0] / plane.shape[0]))
        for plane in planes
    ]
    return [
        plane[y1 // by : math.ceil(y2 / by), x1 // bx : math.ceil(x2 / bx)]
        for plane, (bx, by) in zip(planes, shrunk, strict=True)
    ]


def assert_same_part(region: bytes, box: Box, whole: list[Pixels]) -> None:
    """A region holds the frame's own samples, to the bit: luma and chroma as they are before they are interpolated."""
    for ours, theirs in zip(ffmpeg_planes(region), part_of(whole, box), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def boxes_everywhere(width: int, height: int, side: int) -> list[Box]:
    """A box in the middle, off every grid, and one in each corner."""
    places = [
        ((width - side) // 2 + 3, (height - side) // 2 + 5),
        (0, 0),
        (width - side, 0),
        (0, height - side),
        (width - side, height - side),
    ]
    return [(x, y, x + side, y + side) for x, y in places]


def assert_equals_full_encode(folder: Path, width: int, height: int, side: int, subsampling: str) -> None:
    boxes = boxes_everywhere(width, height, side)
    frames = [textured(width, height, seed) for seed in range(len(boxes))]
    faces = mouths(len(boxes), 320)
    with open_avatar(folder, frames, boxes, subsampling=subsampling) as pack:
        drawn = np.arange(len(boxes)), faces, keys(len(boxes))
        jpegs, regions = compose(pack, *drawn), compose_regions(pack, *drawn)
        places = [changed_region(pack, number).box for number in range(len(boxes))]
    for jpeg, frame, box, face, region, place in zip(
        jpegs, frames, boxes, faces, regions, places, strict=True
    ):
        whole = full_encode(composited(frame, box, face), subsampling)
        assert_same_picture(jpeg, whole)
        assert_same_part(region, place, ffmpeg_planes(whole))


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(1280, 720, 181), (1920, 1080, 270), (720, 1280, 190), (3840, 2160, 541), (854, 480, 119)],
)
def test_a_frame_decodes_to_the_pixels_of_a_full_encode(
    tmp_path: Path, width: int, height: int, side: int
) -> None:
    assert_equals_full_encode(tmp_path, width, height, side, "420")


@pytest.mark.parametrize("subsampling", ["422", "444"])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (854, 480), (1366, 767)])
def test_other_subsamplings_decode_to_the_pixels_of_a_full_encode(
    tmp_path: Path, width: int, height: int, subsampling: str
) -> None:
    assert_equals_full_encode(tmp_path, width, height, 167, subsampling)


@pytest.mark.parametrize(("width", "height"), [(848, 480), (1366, 768), (641, 479), (110, 107)])
def test_awkward_widths_decode_to_the_pixels_of_a_full_encode(
    tmp_path: Path, width: int, height: int
) -> None:
    """53 MCUs a row (a prime), 2 x 43, 41 with ragged edges, and a frame hardly larger than the face."""
    assert_equals_full_encode(tmp_path, width, height, 97, "420")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, Box]:
    width, height = draw(st.integers(1, 140)), draw(st.integers(1, 100))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return width, height, (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes(),
    subsampling=st.sampled_from(["420", "422", "444"]),
    interval=st.integers(1, 9),
    quality=st.integers(1, 100),
    seed=st.integers(0, 2**16),
)
def test_any_frame_and_box_decode_to_the_pixels_of_a_full_encode(
    tmp_path_factory: pytest.TempPathFactory,
    scene: tuple[int, int, Box],
    subsampling: str,
    interval: int,
    quality: int,
    seed: int,
) -> None:
    width, height, box = scene
    frame, face = textured(width, height, seed), mouths(1, 160, seed)
    options: dict[str, Any] = {
        "subsampling": subsampling,
        "interval_wanted": interval,
        "quality": quality,
        "family": "160",
    }
    with open_avatar(tmp_path_factory.mktemp("any"), [frame], [box], **options) as pack:
        (jpeg,) = compose(pack, np.array([0]), face, keys(1))
        (region,) = compose_regions(pack, np.array([0]), face, keys(1))
        place = changed_region(pack, 0).box
    whole = full_encode(composited(frame, box, face[0], family="160"), subsampling, quality)
    np.testing.assert_array_equal(libjpeg_pixels(jpeg), libjpeg_pixels(whole))
    assert_same_part(region, place, ffmpeg_planes(whole))


def test_pillow_reads_the_frame_without_complaint(tmp_path: Path) -> None:
    frame, box = textured(320, 240, 1), (60, 50, 201, 190)
    with open_avatar(tmp_path, [frame], [box]) as pack:
        (jpeg,) = compose(pack, np.array([0]), mouths(1, 320), keys(1))
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.load()
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (320, 240), "RGB")
        assert "progression" not in picture.info


def test_feather_leaves_no_visible_square(tmp_path: Path) -> None:
    """A white mouth on grey: pasted hard it jumps by 127 at the edge, feathered by a tenth of that."""
    frame = np.full((240, 320, 3), 128, np.uint8)
    mouth = np.full((1, 320, 320, 3), 255, np.uint8)
    steps = {}
    for blend in ("hard", "feather"):
        with open_avatar(tmp_path / blend, [frame], [(80, 40, 240, 200)], blend=blend, quality=95) as pack:
            (jpeg,) = compose(pack, np.array([0]), mouth, keys(1))
        pixels = libjpeg_pixels(jpeg).astype(int)[..., 1]
        steps[blend] = max(np.abs(np.diff(pixels, axis=axis)).max() for axis in (0, 1))
        assert pixels[120, 160] >= 253
        assert abs(pixels[20, 20] - 128) <= 1
    assert steps["hard"] > 60
    assert steps["feather"] <= 16


@pytest.fixture(scope="module")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("avatars")
    frames = [textured(160, 120, seed) for seed in range(4)]
    boxes = [(30 + n, 20, 90 + n, 80) for n in range(4)]
    write_avatar(folder, frames, boxes)
    return folder


@pytest.fixture
def pack(avatars: Path) -> AvatarPack:
    return AvatarPack(avatars / "ann")


def request(frame_index: list[int], **changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {
        "AVATAR": np.array([b"ann"], object),
        "FRAME_INDEX": np.array(frame_index, np.int32),
        "MOUTH": mouths(len(frame_index), 320),
        "AVATAR_KEY": keys(len(frame_index)),
    }
    return inputs | changes


def test_the_model_answers_with_frames_and_boxes_along_the_ping_pong(avatars: Path) -> None:
    model = Compositor(PackCache(AvatarPack, avatars, 1 << 30))
    inputs = request([2, 3, 4, 9])
    outputs = model(inputs, frozenset({"JPEG", "RECT"}))
    assert outputs["JPEG"].dtype == object
    assert outputs["RECT"].dtype == np.int32
    np.testing.assert_array_equal(outputs["RECT"][:, 0], [32, 33, 32, 33])
    for jpeg, seed, mouth in zip(outputs["JPEG"], [2, 3, 2, 3], inputs["MOUTH"], strict=True):
        box = (30 + seed, 20, 90 + seed, 80)
        assert_same_picture(jpeg, full_encode(composited(textured(160, 120, seed), box, mouth)))


def test_one_bad_key_in_a_batch_is_refused(avatars: Path) -> None:
    wrong = keys(3)
    wrong[1] = 99
    with pytest.raises(WrongNetworkError, match=f"expected AVATAR_KEY {KEY}, got 99"):
        Compositor(PackCache(AvatarPack, avatars, 1 << 30))(request([0, 1, 2], AVATAR_KEY=wrong), JPEG)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MOUTH", mouths(2, 160), r"expected MOUTH uint8 \[2, 320, 320, 3\], got uint8 \[2, 160, 160, 3\]"),
        ("MOUTH", mouths(3, 320), r"MOUTH .* got uint8 \[3, 320, 320, 3\]"),
        ("MOUTH", mouths(2, 320).astype(np.float32), "MOUTH .* got float32"),
        ("MOUTH", mouths(2, 320)[..., 0], r"MOUTH .* got uint8 \[2, 320, 320\]"),
        ("AVATAR_KEY", keys(1), r"expected AVATAR_KEY int64 \[2, 1\], got int64 \[1, 1\]"),
        ("AVATAR_KEY", keys(2)[:, 0], r"AVATAR_KEY .* got int64 \[2\]"),
        ("AVATAR_KEY", keys(2).astype(np.float64), "AVATAR_KEY .* got float64"),
        ("FRAME_INDEX", np.array([0, -1], np.int32), "FRAME_INDEX holds -1"),
    ],
)
def test_a_wrong_tensor_is_named(avatars: Path, name: str, value: NDArray[Any], sentence: str) -> None:
    with pytest.raises(TensorError, match=sentence):
        Compositor(PackCache(AvatarPack, avatars, 1 << 30))(request([0, 1], **{name: value}), JPEG)


def test_an_unknown_avatar_is_named(avatars: Path) -> None:
    with pytest.raises(UnknownAvatarError, match="'bob'"):
        Compositor(PackCache(AvatarPack, avatars, 1 << 30))(
            request([0], AVATAR=np.array([b"bob"], object)), JPEG
        )


def test_mouths_may_lie_anyhow_in_memory(pack: AvatarPack) -> None:
    planar = mouths(2, 320).transpose(0, 3, 1, 2).copy()
    views = planar.transpose(0, 2, 3, 1)
    template = np.array([1, 0])
    expected = compose(pack, template, np.ascontiguousarray(views), keys(2))
    assert compose(pack, template, views, keys(2)) == expected


def test_a_frame_does_not_depend_on_its_neighbours(pack: AvatarPack) -> None:
    faces = mouths(4, 320)
    template = np.array([3, 0, 2, 0])
    together = compose(pack, template, faces, keys(4))
    alone = [compose(pack, template[n : n + 1], faces[n : n + 1], keys(1))[0] for n in range(4)]
    assert together == alone
    assert together[1] != together[3]


def test_frames_whose_regions_differ_are_composed_as_if_alone(tmp_path: Path) -> None:
    """Regions of two widths, some at the ragged bottom, and more of one width than are encoded together."""
    boxes = [(30 + 3 * n, 20 + n, 90 + 3 * n, 80 + n) for n in range(20)] + [(30, 40, 90, 107)] * 3
    frames = [textured(320, 107, seed) for seed in range(len(boxes))]
    faces = mouths(len(boxes), 320)
    with open_avatar(tmp_path, frames, boxes) as pack:
        assert len({region.width for region in pack.regions}) > 1
        together = compose(pack, np.arange(len(boxes)), faces, keys(len(boxes)))
        for n, jpeg in enumerate(together):
            assert compose(pack, np.array([n]), faces[n : n + 1], keys(1)) == [jpeg]


# --- regions ---
REGION = frozenset({"REGION", "REGION_RECT"})


@pytest.mark.parametrize(
    ("width", "height", "side", "subsampling"),
    [
        *[
            (1280, 720, 181, "420"),
            (1920, 1080, 270, "420"),
            (720, 1280, 190, "420"),
            (3840, 2160, 541, "420"),
        ],
        *[(854, 480, 119, "420"), (848, 480, 97, "420"), (641, 479, 97, "420"), (110, 107, 97, "420")],
        *[(1280, 720, 167, way) for way in ("422", "444")],
        *[(1366, 767, 167, way) for way in ("420", "422", "444")],
    ],
)
def test_a_region_drawn_over_an_idle_frame_gives_the_frame(
    tmp_path: Path, width: int, height: int, side: int, subsampling: str
) -> None:
    """To the bit, but for the pixels next to the region's edge, on either side, where chroma is smaller than luma.

    Such chroma is interpolated there: a decoder that sees the whole frame takes in the sample across the edge. With
    libjpeg's triangle of 3/4 and 1/4 that is a quarter of the step there, and in a corner half of it.
    """
    boxes = boxes_everywhere(width, height, side)
    frames = [textured(width, height, seed) for seed in range(len(boxes))]
    folder = write_avatar(tmp_path, frames, boxes, subsampling=subsampling)
    write_idle(folder, [mouths(len(boxes), 320, seed=9)])
    inputs = request(list(range(len(boxes))))
    cache = PackCache(AvatarPack, tmp_path, 1 << 30)
    drawn, idle = Compositor(cache)(inputs, REGION | JPEG), IdleFrames(cache)(inputs, JPEG)
    across = {"420": (1, 1), "422": (1, 0), "444": (0, 0)}[subsampling]
    for whole, region, box, still in zip(
        drawn["JPEG"], drawn["REGION"], drawn["REGION_RECT"].tolist(), idle["JPEG"], strict=True
    ):
        off = drawn_over(still, region, box).astype(int) - libjpeg_pixels(whole)
        near = near_edge(box, width, height, across)
        assert not off[~near].any()
        step = chroma_step(ffmpeg_planes(whole), ffmpeg_planes(still), box)
        assert np.abs(off).max() <= 1.772 * (step / 2 + 1) + 1, "1.772 is how strong Cb is in blue"


def drawn_over(picture: bytes, region: bytes, box: Box) -> Pixels:
    x1, y1, x2, y2 = box
    pixels = libjpeg_pixels(picture).copy()
    pixels[y1:y2, x1:x2] = libjpeg_pixels(region)
    return pixels


def near_edge(box: Box, width: int, height: int, across: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels lie that near to an edge of the box which is none of the frame's."""
    x1, y1, x2, y2 = box
    near = np.zeros((height, width), bool)
    bx, by = across
    near[max(0, y1 - by) : y2 + by, max(0, x1 - bx) : x2 + bx] = True
    near[y1 + by * (y1 > 0) : y2 - by * (y2 < height), x1 + bx * (x1 > 0) : x2 - bx * (x2 < width)] = False
    return near


def chroma_step(whole: list[Pixels], still: list[Pixels], box: Box) -> int:
    """By how much chroma inside the box's edges differs from that across them, and from the idle frame's, at most."""
    step = 0
    for new, old in zip(whole[1:], still[1:], strict=True):
        bx, by = round(whole[0].shape[1] / new.shape[1]), round(whole[0].shape[0] / new.shape[0])
        x1, y1, x2, y2 = box[0] // bx, box[1] // by, math.ceil(box[2] / bx), math.ceil(box[3] / by)
        lines = [(new, old, inside, outside) for inside, outside in ((y1, y1 - 1), (y2 - 1, y2))]
        lines += [(new.T, old.T, inside, outside) for inside, outside in ((x1, x1 - 1), (x2 - 1, x2))]
        for drawn, idle, inside, outside in lines:
            edge = drawn[inside].astype(int)
            step = max(step, np.abs(edge - idle[inside]).max())
            if 0 <= outside < len(drawn):
                step = max(step, np.abs(edge - drawn[outside]).max())
    return step


def test_a_region_is_whole_mcus_and_no_frame_is_made_for_it(
    avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compositor_backend.compositor.splice", None)
    answer = Compositor(PackCache(AvatarPack, avatars, 1 << 30))(request([0, 1, 2]), REGION)
    assert set(answer) >= REGION
    assert answer["REGION_RECT"].dtype == np.int32
    for region, (x1, y1, x2, y2) in zip(answer["REGION"], answer["REGION_RECT"].tolist(), strict=True):
        assert (x1 % 16, y1 % 16) == (0, 0)
        assert libjpeg_pixels(region).shape == (y2 - y1, x2 - x1, 3)
        assert next(plane.shape for plane in ffmpeg_planes(region)) == (y2 - y1, x2 - x1)


def test_regions_hold_the_face_box_and_little_more(avatars: Path) -> None:
    answer = Compositor(PackCache(AvatarPack, avatars, 1 << 30))(request([0, 1, 2, 3]), REGION | {"RECT"})
    for (x1, y1, x2, y2), (left, top, right, bottom) in zip(
        answer["REGION_RECT"], answer["RECT"], strict=True
    ):
        assert 0 <= left - x1 < 16
        assert 0 <= top - y1 < 16
        assert 0 <= x2 - right < 16
        assert 0 <= y2 - bottom < 16


def test_a_region_is_a_file_of_its_own_whatever_it_is_encoded_with(tmp_path: Path) -> None:
    """Regions of two widths, some at the ragged bottom, and more of one width than are encoded together."""
    boxes = [(30 + 3 * n, 20 + n, 90 + 3 * n, 80 + n) for n in range(20)] + [(30, 40, 90, 107)] * 3
    frames = [textured(320, 107, seed) for seed in range(len(boxes))]
    faces = mouths(len(boxes), 320)
    with open_avatar(tmp_path, frames, boxes) as pack:
        assert len({changed_region(pack, n).width for n in range(len(boxes))}) > 1
        together = compose_regions(pack, np.arange(len(boxes)), faces, keys(len(boxes)))
        for n, jpeg in enumerate(together):
            assert compose_regions(pack, np.array([n]), faces[n : n + 1], keys(1)) == [jpeg]
            region = changed_region(pack, n)
            assert Image.open(io.BytesIO(jpeg)).size == (region.width, region.height)


@pytest.mark.parametrize("wanted", [{"JPEG"}, {"REGION"}, {"RECT"}, {"REGION_RECT"}, {"JPEG", "REGION_RECT"}])
def test_only_what_is_wanted_is_made(avatars: Path, wanted: set[str]) -> None:
    cache = PackCache(AvatarPack, avatars, 1 << 30)
    whole = Compositor(cache)(request([0, 1]), frozenset({"JPEG", "RECT", "REGION", "REGION_RECT"}))
    answer = Compositor(cache)(request([0, 1]), frozenset(wanted))
    assert set(answer) == wanted
    for name in wanted:
        assert answer[name].tolist() == whole[name].tolist()


@pytest.mark.parametrize("wanted", ["JPEG", "RECT", "REGION", "REGION_RECT"])
def test_whatever_is_wanted_a_strange_mouth_is_refused(avatars: Path, wanted: str) -> None:
    with pytest.raises(WrongNetworkError):
        Compositor(PackCache(AvatarPack, avatars, 1 << 30))(
            request([0], AVATAR_KEY=keys(1, 99)), frozenset({wanted})
        )
