from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from compositor_backend.errors import PackError
from compositor_backend.manifest import IDLE_FILES, PACK_FILES, FileEntry, GraphEntry, Manifest

GOOD = Manifest(
    id="ann",
    width=1280,
    height=720,
    frames=523,
    family="328",
    audio_mode="ave",
    audio_shape=(32, 16, 16),
    network_key=-(2**63),
    quality=75,
    subsampling="420",
    restart_interval=4,
    blend="feather",
    created_by="lipstream 0.1.0",
    files={name: FileEntry(1000, "ab" * 32, "uint8", (523, 4)) for name in PACK_FILES},
    graphs={name: GraphEntry(1000, "cd" * 32, 52_000_000) for name in ("network", "encoder")},
)


def altered(**changes: Any) -> str:
    return json.dumps(json.loads(GOOD.to_json()) | changes)


def without(name: str) -> str:
    value = json.loads(GOOD.to_json())
    del value[name]
    return json.dumps(value)


def altered_file(**changes: Any) -> str:
    value = json.loads(GOOD.to_json())
    value["files"]["faces"] |= changes
    return json.dumps(value)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    GOOD.save(tmp_path)
    assert Manifest.load(tmp_path) == GOOD
    assert (tmp_path / "avatar.json").read_text().endswith("}\n")


def test_an_avatar_may_have_no_encoder() -> None:
    silent = dataclasses.replace(GOOD, graphs={"network": GOOD.graphs["network"]})
    assert (GOOD.takes_pcm, silent.takes_pcm) == (True, False)
    assert Manifest.from_json(silent.to_json()) == silent


def with_idle_frames(key: int | None) -> Manifest:
    files = dict(GOOD.files) | dict.fromkeys(IDLE_FILES, GOOD.files["faces"])
    return dataclasses.replace(GOOD, files=files, idle_key=key)


@pytest.mark.parametrize("key", [-5, 2**63 - 1])
def test_idle_frames_may_bear_a_key(key: int | None) -> None:
    manifest = with_idle_frames(key)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_an_idle_key_that_is_none_is_named() -> None:
    text = json.dumps(json.loads(with_idle_frames(1).to_json()) | {"idle_key": "1"})
    with pytest.raises(PackError, match=r"^idle_key in avatar\.json is a text; an integer is wanted"):
        Manifest.from_json(text)
    with pytest.raises(PackError, match=r"^idle_key in avatar\.json is there without idle frames; null is"):
        Manifest.from_json(altered(idle_key=1))


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(Manifest) if field.name != "idle_key"]
)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(PackError, match=rf"^avatar\.json lacks the field '{name}'$"):
        Manifest.from_json(without(name))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("format", 1, "avatar.json is of format 1; this version reads format 3"),
        ("format", "1", "format in avatar.json is a text; an integer is wanted"),
        ("id", "../x", r"id in avatar.json is '../x'; a name that matches"),
        ("id", 7, r"id in avatar.json is a number \(7\); a text"),
        ("width", 0, "width in avatar.json is 0; 1 to 65500 is wanted"),
        ("width", 1280.0, r"width in avatar.json is a number \(1280.0\); an integer is wanted"),
        ("height", True, "height in avatar.json is a boolean; an integer is wanted"),
        ("height", None, "height in avatar.json is null; an integer is wanted"),
        ("frames", -5, "frames in avatar.json is -5; 1 to"),
        ("fps", 30, "fps in avatar.json is 30; 25 is wanted"),
        ("family", "256", "family in avatar.json is '256'; 328 or 160 or wav2lip-96 or"),
        ("audio_mode", "", "audio_mode in avatar.json is a text; a text that is not empty is wanted"),
        ("audio_shape", [32, -1], r"audio_shape in avatar.json is \[32, -1\]; a list of positive integers"),
        ("audio_shape", [], "audio_shape in avatar.json is"),
        ("audio_shape", "32", "audio_shape in avatar.json is '32'"),
        ("graphs", [], "graphs of avatar.json holds a list"),
        ("graphs", {}, "graphs of avatar.json lacks the field 'network'"),
        ("graphs", {"network": {}, "../x": {}}, r"graphs of avatar.json has the unknown field '../x'"),
        (
            "graphs",
            {"network": {"bytes": 1, "sha256": "x", "row_bytes": 1}},
            "sha256 in network in graphs of",
        ),
        ("network_key", 2**63, "network_key in avatar.json is 9223372036854775808; -9223372036854775808 to"),
        ("quality", 101, "quality in avatar.json is 101; 1 to 100 is wanted"),
        ("subsampling", "411", "subsampling in avatar.json is '411'; 420 or 422 or 444 is wanted"),
        ("restart_interval", 0, "restart_interval in avatar.json is 0; 1 to 65535 is wanted"),
        ("blend", "soft", "blend in avatar.json is 'soft'; hard or feather is wanted"),
        ("created_by", {}, "created_by in avatar.json is an object; a text"),
        ("files", [], r"files of avatar.json holds a list; an object is wanted"),
        ("files", {}, "files of avatar.json lacks the field 'faces'"),
        ("colour", 1, "avatar.json has the unknown field 'colour'"),
    ],
)
def test_a_wrong_field_is_named(name: str, value: object, complaint: str) -> None:
    with pytest.raises(PackError, match=f"^{complaint}"):
        Manifest.from_json(altered(**{name: value}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sha256": "AB" * 32}, "sha256 in faces in files of avatar.json is .*; 64 hexadecimal digits"),
        ({"bytes": 0}, "bytes in faces in files of avatar.json is 0"),
        ({"shape": [0, 4]}, "shape in faces"),
        ({"mode": "r"}, "faces in files of avatar.json has the unknown field 'mode'"),
    ],
)
def test_a_wrong_file_entry_is_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PackError, match=complaint):
        Manifest.from_json(altered_file(**changes))


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, '{"format": 2' + "0" * 5000 + "}"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(PackError, match=r"^avatar\.json is not JSON"):
        Manifest.from_json(text)


def test_json_of_another_kind_is_refused() -> None:
    with pytest.raises(PackError, match=r"^avatar\.json holds a list; an object is wanted"):
        Manifest.from_json("[1, 2]")


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"avatar\.json cannot be read"):
        Manifest.load(tmp_path)


def test_a_manifest_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "avatar.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PackError, match=r"avatar\.json cannot be read"):
        Manifest.load(tmp_path)
