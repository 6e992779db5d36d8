"""What may be wrong with a user's folder is one sentence; what has to be assumed is said."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from export.errors import ExportError
from export.importers.base import Source, UndecidedError, Wanted
from export.importers.choice import choose
from tests.support.networks import random_encoder, save
from tests.support.user_folders import (
    BOXES,
    FRAMES,
    Box,
    Fresh,
    UserFolder,
    crop,
    go_v2,
    network,
    write_video,
)


def read(folder: UserFolder, wanted: Wanted | None = None) -> Source:
    importer, _ = choose(folder.path, wanted or Wanted())
    return importer.read(folder.path, wanted or Wanted())


# --- which network ---
def test_the_highest_epoch_is_taken_and_named(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    source = read(folder)
    assert source.network.path == folder.path / "195.pth"
    assert any("195.pth (the highest epoch of 3)" in sentence for sentence in source.found)


def test_a_file_without_a_number_is_left_out_where_others_have_one(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    shutil.copy(folder.path / "195.pth", folder.path / "best.pth")
    assert any("the highest epoch of 3; best.pth left out" in sentence for sentence in read(folder).found)


def test_files_without_numbers_are_asked_for(fresh: Fresh) -> None:
    folder = fresh("ultralight")
    (folder.path / "checkpoint" / "60.pth").rename(folder.path / "checkpoint" / "best.pth")
    shutil.copy(folder.path / "checkpoint" / "best.pth", folder.path / "checkpoint" / "last.pth")
    with pytest.raises(UndecidedError, match="2 networks without numbers") as caught:
        read(folder)
    assert caught.value.option == "--checkpoint"
    assert [Path(choice).name for choice in caught.value.choices] == ["best.pth", "last.pth"]
    assert read(folder, Wanted(checkpoint=Path(caught.value.choices[1]))).network.path.name == "last.pth"


def test_a_folder_of_checkpoints_may_be_named(fresh: Fresh, tmp_path: Path) -> None:
    folder = fresh("synctalk")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in folder.path.glob("*.pth"):
        path.rename(elsewhere / path.name)
    assert read(folder, Wanted(checkpoint=elsewhere)).network.path == elsewhere / "195.pth"
    with pytest.raises(ExportError, match=r"holds no \*\.pth with a network"):
        read(folder, Wanted(checkpoint=folder.path))


def test_where_training_leaves_its_checkpoints(fresh: Fresh, tmp_path: Path) -> None:
    """``dataset/<name>`` and ``checkpoint/<name>`` stand side by side."""
    folder = fresh("synctalk")
    data, checkpoints = tmp_path / "dataset" / "ann", tmp_path / "checkpoint" / "ann"
    checkpoints.mkdir(parents=True)
    (folder.path / "195.pth").rename(checkpoints / "195.pth")
    for path in folder.path.glob("*.pth"):
        path.unlink()
    shutil.move(folder.path, data)
    importer, _ = choose(data, Wanted())
    assert importer.read(data, Wanted()).network.path == checkpoints / "195.pth"


def test_no_network_at_all(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    for path in folder.path.glob("*.pth"):
        path.unlink()
    expected = "looks like a SyncTalk_2D data set or an Ultralight .* but no .pth with a network lies in .*--checkpoint"
    with pytest.raises(ExportError, match=expected):
        read(folder)
    folder = fresh("go_v1")
    (folder.path / "checkpoint" / "model_best.onnx").unlink()
    with pytest.raises(
        ExportError, match=r"model_best\.onnx is not there: say which network with --checkpoint"
    ):
        read(folder)
    folder = fresh("livetalking_ultralight")
    (folder.path / "ultralight.pth").unlink()
    with pytest.raises(ExportError, match=r"holds no ultralight\.pth: say which network with --checkpoint"):
        read(folder)


def test_a_family_that_the_weights_contradict(fresh: Fresh) -> None:
    with pytest.raises(ExportError, match="a network of the 328 family; --family 160 was said"):
        read(fresh("go_v1"), Wanted(family="160"))
    with pytest.raises(ExportError, match="6 levels, a network of the 328 family"):
        read(fresh("synctalk"), Wanted(family="160"))


def test_another_network_in_place_of_the_one_that_lies_there(fresh: Fresh, tmp_path: Path) -> None:
    other = save(network("328", "ave", 1).state_dict(), tmp_path / "5.pth")
    source = read(fresh("go_v1"), Wanted(checkpoint=other, audio="ave"))
    assert source.network.path == other
    with pytest.raises(ExportError, match="a network of the 328 family; faces of 168 px want one of the 160"):
        read(fresh("livetalking_ultralight"), Wanted(checkpoint=other))


# --- how it hears ---
def test_features_tell_what_weights_do_not(fresh: Fresh) -> None:
    for maker, mode in (("synctalk", "ave"), ("synctalk_hubert", "hubert")):
        source = read(fresh(maker))
        assert source.network.audio == mode
        assert any(sentence.startswith(f"audio mode {mode}, because aud_") for sentence in source.assumed)


def test_the_audio_mode_is_asked_for_where_nothing_tells(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    (folder.path / "aud_ave.npy").unlink()
    with pytest.raises(UndecidedError, match=r"say --audio ave or --audio hubert$") as caught:
        read(folder)
    assert caught.value.choices == ("ave", "hubert")
    source = read(folder, Wanted(audio="hubert"))
    assert source.network.audio == "hubert"
    assert not any("audio mode" in sentence for sentence in source.assumed)


def test_features_of_both_kinds_tell_nothing(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    np.save(folder.path / "aud_hu.npy", np.zeros((8, 2, 1024), np.float32))
    with pytest.raises(UndecidedError, match="features of both lie there; say --audio ave or --audio hubert"):
        read(folder)


def test_features_that_the_network_cannot_have_been_trained_on(fresh: Fresh) -> None:
    folder = fresh("synctalk_wenet")
    (folder.path / "aud_wenet.npy").unlink()
    np.save(folder.path / "aud_ave.npy", np.zeros((8, 512), np.float32))
    with pytest.raises(
        UndecidedError, match=r"aud_ave\.npy lies there, and .*195.pth was trained on wenet features"
    ):
        read(folder)
    assert read(folder, Wanted(audio="wenet")).network.audio == "wenet"


def test_an_audio_mode_that_the_weights_contradict(fresh: Fresh) -> None:
    with pytest.raises(ExportError, match="fits the audio mode ave or hubert; --audio wenet was said"):
        read(fresh("synctalk"), Wanted(audio="wenet"))


def test_an_encoder_says_that_features_are_its_own(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    (folder.path / "aud_ave.npy").unlink()
    encoder = save(random_encoder().state_dict(), folder.path / "audio_visual_encoder.pth")
    source = read(folder)
    assert (source.network.audio, source.encoder) == ("ave", encoder)
    assert any("because of the audio encoder" in sentence for sentence in source.assumed)
    assert not any("no audio encoder" in note for note in source.notes)
    assert read(folder, Wanted(audio="hubert")).encoder is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((8, 100), np.float32), r"float32 \[8, 100\]; floating-point \[n, 512\] is wanted"),
        (np.zeros((8, 512), np.int32), r"int32 \[8, 512\]"),
        (np.array([object()]), r"object \[1\]"),
    ],
)
def test_a_table_that_is_none(fresh: Fresh, table: object, message: str) -> None:
    folder = fresh("synctalk")
    np.save(folder.path / "aud_ave.npy", table, allow_pickle=True)
    with pytest.raises(ExportError, match=rf"aud_ave\.npy holds {message}"):
        read(folder)


def test_a_table_that_is_cut_off(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    (folder.path / "aud_ave.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(ExportError, match=r"aud_ave\.npy cannot be read as a \.npy file"):
        read(folder)


# --- frames and boxes ---
def test_a_gap_in_the_numbers(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    (folder.path / "frames" / "frame_0003.png").unlink()
    with pytest.raises(ExportError, match="frames has no picture number 3, but 2 and 4"):
        read(folder)


def test_two_pictures_of_a_number(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    frames = folder.path / "frames"
    shutil.copy(frames / "frame_0003.png", frames / "frame_3.png")
    with pytest.raises(ExportError, match="has the number 3, as another picture there has"):
        read(folder)


def test_numbers_may_start_anywhere(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    frames = folder.path / "frames"
    for number in reversed(range(FRAMES)):
        (frames / f"frame_{number:04d}.png").rename(frames / f"frame_{number + 1:04d}.png")
    assert len(list(read(folder).frames)) == FRAMES


def test_a_frame_without_landmarks(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    (folder.path / "landmarks" / "4.lms").unlink()
    with pytest.raises(ExportError, match=r"4\.lms is not there; frame 4 wants its landmarks"):
        read(folder)


def test_landmarks_without_a_frame_are_left_out(fresh: Fresh) -> None:
    folder = fresh("synctalk")
    shutil.copy(folder.path / "landmarks" / "5.lms", folder.path / "landmarks" / "6.lms")
    source = read(folder)
    assert len(source.boxes) == FRAMES
    assert "1 landmark files belong to no picture and are left out (6)" in source.notes


def test_parsing_is_left_out(fresh: Fresh) -> None:
    assert any(note.startswith("parsing/ is left out") for note in read(fresh("synctalk")).notes)


def test_fewer_boxes_than_frames(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    (folder.path / "crop_rects.json").write_text(json.dumps(BOXES[:-1]))
    with pytest.raises(ExportError, match="there are 6 frames and 5 face boxes; as many of each are wanted"):
        read(folder)


def test_a_box_that_leaves_the_frame_is_refused_by_its_number(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    boxes = [*BOXES[:2], (250, 60, 350, 160), *BOXES[3:]]
    (folder.path / "crop_rects.json").write_text(json.dumps(boxes))
    with pytest.raises(
        ExportError, match=r"frame 2: the face box \[250, 60, 350, 160\] is not inside the frame"
    ):
        read(folder)


def test_a_picture_of_another_size(fresh: Fresh) -> None:
    folder = fresh("go_v1")
    Image.new("RGB", (100, 100)).save(folder.path / "frames" / "frame_0004.png")
    with pytest.raises(ExportError, match=r"frame_0004\.png is 100x100 px; frame_0000\.png is 320x240 px"):
        read(folder)


# --- videos ---
def test_a_video_of_another_rate_is_brought_to_25_a_second(tmp_path: Path) -> None:
    folder = go_v2(tmp_path / "package", rate_hz=50)
    source = read(folder)
    assert len(source.boxes) == len(list(source.frames)) == FRAMES // 2
    assert list(source.boxes) == [BOXES[n] for n in source.frames.origin]
    assert any("50.00 frames a second" in note for note in source.notes)


def test_crops_of_other_boxes_are_refused(fresh: Fresh) -> None:
    folder = fresh("go_v2")
    moved = {
        str(n): {"rect": [x1 + 40, y1 + 30, x2 + 40, y2 + 30]} for n, (x1, y1, x2, y2) in enumerate(BOXES)
    }
    (folder.path / "cache" / "crop_rectangles.json").write_text(json.dumps(moved))
    with pytest.raises(
        ExportError, match=r"crops_328_video\.mp4, frame 0 is not what cache/crop_rectangles\.json cuts"
    ):
        read(folder)
    (folder.path / "crops_328_video.mp4").unlink()
    assert read(folder).boxes[0] == tuple(moved["0"]["rect"])


def test_fewer_crops_than_frames(fresh: Fresh) -> None:
    folder = fresh("go_v2")
    crops = [crop(frame, box, 328) for frame, box in zip(folder.frames[:-1], BOXES, strict=False)]
    write_video(folder.path / "crops_328_video.mp4", crops)
    with pytest.raises(ExportError, match=r"crops_328_video\.mp4 has 5 frames and full_body_video\.mp4 6"):
        read(folder)


# --- LiveTalking ---
def coords(folder: UserFolder, boxes: list[Box]) -> None:
    (folder.path / "coords.pkl").write_bytes(pickle.dumps(boxes))


def test_the_other_order_is_told_by_the_faces(fresh: Fresh) -> None:
    folder = fresh("livetalking_ultralight")
    coords(folder, [(y1, y2, x1, x2) for x1, y1, x2, y2 in BOXES])
    source = read(folder)
    assert list(source.boxes) == BOXES
    assert any(
        "are y1, y2, x1, x2, as face_imgs/ shows; x1, y1, x2, y2 is usual" in said for said in source.assumed
    )


def test_faces_of_other_frames_are_refused(fresh: Fresh) -> None:
    folder = fresh("livetalking_ultralight")
    coords(folder, [(x1 - 60, y1 + 50, x2 - 60, y2 + 50) for x1, y1, x2, y2 in BOXES])
    with pytest.raises(
        ExportError, match=r"face_imgs is not what coords\.pkl cuts from full_imgs, in no order"
    ):
        read(folder)


def test_as_many_of_everything(fresh: Fresh) -> None:
    folder = fresh("livetalking_ultralight")
    (folder.path / "face_imgs" / "00000005.png").unlink()
    expected = "has 6 pictures in full_imgs, 5 in face_imgs and 6 boxes in coords.pkl"
    with pytest.raises(ExportError, match=expected):
        read(folder)


def test_a_pickle_with_code(fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch ran",)

    monkeypatch.chdir(tmp_path)
    folder = fresh("livetalking_ultralight")
    (folder.path / "coords.pkl").write_bytes(pickle.dumps([Evil()] * FRAMES))
    with pytest.raises(
        ExportError, match=r"wants to call posix\.system while it is read, which may run code"
    ):
        read(folder)
    assert not (tmp_path / "ran").exists()


def test_an_avatar_of_musetalk_is_none_of_these(fresh: Fresh) -> None:
    folder = fresh("livetalking_ultralight")
    (folder.path / "latents.pt").touch()
    with pytest.raises(ExportError, match="is none of what can be imported"):
        read(folder)


def test_pictures_are_compared_as_they_look(fresh: Fresh) -> None:
    """Another interpolation and a lossy format change pixels, not what is to be seen."""
    folder = fresh("livetalking_ultralight")
    for number, (frame, box) in enumerate(zip(folder.frames, BOXES, strict=True)):
        path = folder.path / "face_imgs" / f"{number:08d}.png"
        x1, y1, x2, y2 = box
        face = cv2.resize(frame[y1:y2, x1:x2], (168, 168), interpolation=cv2.INTER_NEAREST)
        path.unlink()
        assert cv2.imwrite(str(path.with_suffix(".jpg")), face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    assert list(read(folder).boxes) == BOXES


def test_one_wav2lip_network_for_all_avatars_lies_where_livetalking_has_it(fresh: Fresh) -> None:
    folder = fresh("livetalking_wav2lip")
    source = read(folder)
    assert source.network.path == folder.path.parents[2] / "models" / "wav2lip.pth"
    assert source.encoder is None
    assert "the numbers of a box are y1, y2, x1, x2, as face_imgs/ shows" in source.assumed
    assert any("takes speech without an audio encoder" in note for note in source.notes)
    shutil.rmtree(source.network.path.parent)
    with pytest.raises(
        ExportError, match=r"no Wav2Lip network lies in .* or .*models: say which with --checkpoint"
    ):
        read(folder)


def test_a_network_that_is_no_wav2lip(fresh: Fresh, tmp_path: Path) -> None:
    other = save(network("160", "hubert").state_dict(), tmp_path / "5.pth")
    with pytest.raises(ExportError, match="a network of the 160 family; a Wav2Lip network is wanted"):
        read(fresh("livetalking_wav2lip"), Wanted(checkpoint=other))
