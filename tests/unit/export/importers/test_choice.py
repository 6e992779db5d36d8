"""Each folder is told by what lies in it, and read to the frames, boxes and network that its maker put there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from export.errors import ExportError
from export.importers.base import UndecidedError, Wanted
from export.importers.choice import FORMATS, IMPORTERS, choose
from tests.support.user_folders import BOXES, HEIGHT, MAKERS, WIDTH, Fresh


def wanted_for(options: tuple[str, ...]) -> Wanted:
    said = dict(zip(options[::2], options[1::2], strict=True))
    return Wanted(checkpoint=Path(said["--checkpoint"]) if "--checkpoint" in said else None)


@pytest.mark.parametrize("maker", MAKERS)
def test_each_format_is_known_and_read(fresh: Fresh, maker: str) -> None:
    folder = fresh(maker)
    wanted = wanted_for(folder.options)
    importer, evidence = choose(folder.path, wanted)
    assert folder.format == importer.NAME
    assert evidence.found
    source = importer.read(folder.path, wanted)
    assert list(source.boxes) == BOXES
    frames = list(source.frames)
    assert len(frames) == len(folder.frames)
    for frame, expected in zip(frames, folder.frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 2  # decoders of JPEG differ by a step
    assert source.network.family == folder.network.family.name
    assert source.network.audio == folder.network.mode.name
    assert f"6 frames of {WIDTH}x{HEIGHT} px" in source.found[0]
    assert any("6 face boxes, 98x98 px" in sentence for sentence in source.found)
    assert any(str(source.network.path) in sentence for sentence in source.found)


def test_no_other_importer_takes_it(fresh: Fresh) -> None:
    for maker in (
        "synctalk",
        "ultralight",
        "go_v1",
        "go_v2",
        "livetalking_ultralight",
        "livetalking_wav2lip",
    ):
        folder = fresh(maker)
        fitting = [importer.NAME for importer in IMPORTERS if importer.detect(folder.path, Wanted())]
        assert fitting == [folder.format]


def test_names_alone_are_no_evidence(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    (folder.path / "crop_rects.json").write_text('{"boxes": []}')
    with pytest.raises(ExportError, match=r"looks like a model folder of the Go servers.*crop_rects\.json"):
        choose(folder.path, Wanted())


def test_two_formats_in_one_folder_are_asked_for(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    shutil.copytree(fresh("livetalking_ultralight").path, folder.path, dirs_exist_ok=True)
    with pytest.raises(
        UndecidedError, match=r"fits a model folder of the Go .* and an ultralight avatar"
    ) as caught:
        choose(folder.path, Wanted())
    assert (caught.value.option, caught.value.choices) == ("--format", ("go-v1", "livetalking-ultralight"))
    for name in caught.value.choices:
        assert name == choose(folder.path, Wanted(), name)[0].NAME


def test_a_folder_of_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").touch()
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ExportError) as caught:
        choose(tmp_path, Wanted())
    text = str(caught.value)
    assert "there lies holiday.txt, pictures/" in text
    for layout in ("full_body_img/", "crop_rects.json", "full_body_video.mp4", "coords.pkl"):
        assert layout in text
    assert "\n" not in text


def test_the_folder_that_was_meant_is_named(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    with pytest.raises(ExportError, match="in it go_v1 would fit"):
        choose(folder.path.parent, Wanted())


def test_a_format_by_name_looks_for_no_other(fresh: Fresh) -> None:
    with pytest.raises(ExportError, match=r"is none of what can be imported: a SyncTalk_2D data set \("):
        choose(fresh("go_v1").path, Wanted(), "synctalk-2d")
    with pytest.raises(ExportError, match=f"'movie' is no format; {', '.join(FORMATS)} are known"):
        choose(fresh("go_v2").path, Wanted(), "movie")


@pytest.mark.parametrize(("name", "what"), [("gone", "is not there"), ("a.mp4", "is no folder")])
def test_what_is_no_folder(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ExportError, match=f"{name} {what}; .*python -m export avatar"):
        choose(tmp_path / name, Wanted())
