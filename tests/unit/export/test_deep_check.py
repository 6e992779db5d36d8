from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compositor_backend.manifest import MANIFEST_NAME, Manifest
from compositor_backend.pack import file_sha256
from export import deep_check
from export.avatar import NetworkSource, build_avatar, graph_entry
from export.check import Finding
from export.cli import main
from export.deep_check import SPEECH, check_avatar_deeply, read_speech, similarity, spread
from export.errors import ExportError
from export.frames import open_frames
from export.pack_writer import write_idle
from tests.support.avatar_sources import BOXES, Sources, encoder_graph, network_graph

ROOT = Path(__file__).parents[3]
DEEP = ["all frames", "speech", "idle frames"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatars folder with the avatar ``ann``."""
    sources = Sources.write(tmp_path_factory.mktemp("sources"))
    build_avatar(sources.settings(), open_frames(sources.frames), BOXES)
    return sources.avatars


@pytest.fixture
def avatars(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "avatars"))


def findings(avatars: Path) -> dict[str, Finding]:
    return {finding.part: finding for finding in check_avatar_deeply(avatars / "ann")}


def bad(avatars: Path) -> dict[str, str]:
    return {part: finding.text for part, finding in findings(avatars).items() if not finding.good}


def save_network(avatars: Path, graph: onnx.ModelProto) -> None:
    """Another network under the same key, its checksum made to fit."""
    save_graph(avatars, "network", graph)


def save_encoder(avatars: Path, graph: onnx.ModelProto) -> None:
    save_graph(avatars, "encoder", graph)


def save_graph(avatars: Path, name: str, graph: onnx.ModelProto) -> None:
    folder = avatars / "ann"
    onnx.save(graph, str(folder / f"{name}.onnx"))
    manifest = Manifest.load(folder)
    graphs = {**manifest.graphs, name: graph_entry(folder / f"{name}.onnx")}
    dataclasses.replace(manifest, graphs=graphs).save(folder)


def rewrite(avatars: Path, name: str, change: Callable[[NDArray[Any]], None]) -> None:
    """Change an array of the pack, its checksum made to fit."""
    folder = avatars / "ann"
    array = np.load(folder / f"{name}.npy")
    change(array)
    np.save(folder / f"{name}.npy", array)
    manifest = Manifest.load(folder)
    entry = dataclasses.replace(manifest.files[name], sha256=file_sha256(folder / f"{name}.npy"))
    dataclasses.replace(manifest, files={**manifest.files, name: entry}).save(folder)


def test_an_avatar_that_was_copied_works(avatars: Path) -> None:
    found = findings(avatars)
    assert list(found)[-3:] == DEEP
    assert all(finding.good for finding in found.values()), found
    assert found["all frames"].text.startswith("4 frames decoded")
    assert found["speech"].text.startswith("4 frames drawn to speech, composited and decoded")
    assert found["idle frames"].text == "4 of 4 drawn anew are equal"


def test_progress_is_told_for_each_part(avatars: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    progress = lambda what, done, total: told.setdefault(what, []).append((done, total))  # noqa: E731
    list(check_avatar_deeply(avatars / "ann", progress))
    assert list(told) == [f"ann: {part}" for part in DEEP]
    for steps in told.values():
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert steps[-1] == (4, 4)


def test_nothing_is_written(avatars: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in avatars.rglob("*")}
    findings(avatars)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in avatars.rglob("*")} == before


# --- damage ---
FILES = {
    "ann/avatar.json": r"avatar.json",
    "ann/faces.npy": "faces.npy",
    "ann/rects.npy": "rects.npy",
    "ann/scan_data.npy": "scan_data.npy",
    "ann/scan_offsets.npy": "scan_offsets.npy",
    "ann/region_data.npy": "region_data.npy",
    "ann/region_boxes.npy": "region_boxes.npy",
    "ann/jpeg_header.npy": "jpeg_header.npy",
    "ann/idle_data.npy": "idle_data.npy",
    "ann/idle_offsets.npy": "idle_offsets.npy",
    "ann/network.onnx": "network.onnx",
    "ann/encoder.onnx": "encoder.onnx",
}


@pytest.mark.parametrize("name", FILES)
def test_a_byte_flipped_in_any_file_is_found_and_the_file_named(avatars: Path, name: str) -> None:
    data = bytearray((avatars / name).read_bytes())
    data[int(0.7 * len(data))] ^= 0x80
    (avatars / name).write_bytes(data)
    texts = bad(avatars).values()
    assert any(part in text for text in texts for part in FILES[name].split("|")), texts


def test_every_file_is_among_those(whole: Path) -> None:
    files = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert files - {".import.lock"} == set(FILES)


# --- what no checksum tells ---
def test_faces_of_other_pictures(avatars: Path) -> None:
    def swap(faces: NDArray[Any]) -> None:
        faces[[1, 2]] = faces[[2, 1]]

    rewrite(avatars, "faces", swap)
    assert "faces.npy at frame 1 is off by" in bad(avatars)["all frames"]


def test_steps_of_another_pillows_arithmetic_in_the_faces_are_no_damage(avatars: Path) -> None:
    def step(faces: NDArray[Any]) -> None:
        faces[:, 0] += 2 * (faces[:, 0] < 254).astype(np.uint8)

    rewrite(avatars, "faces", step)
    assert "all frames" not in bad(avatars)


def test_regions_of_other_pictures(avatars: Path) -> None:
    def negative(pixels: NDArray[Any]) -> None:
        pixels[:] = 255 - pixels

    rewrite(avatars, "region_data", negative)
    assert (
        "region_data.npy and scan_data.npy show different pictures at frame 0" in bad(avatars)["all frames"]
    )


def test_idle_frames_of_which_only_the_last_is_stale(avatars: Path) -> None:
    folder = avatars / "ann"
    with deep_check.AvatarPack(folder) as pack:
        silence = deep_check.silent_audio(avatars / "ann" / "encoder.onnx", (32, 16, 16))
        session = deep_check.open_session(avatars / "ann" / "network.onnx")
        (mouths,) = session.run(["MOUTH"], {"FACE": pack.faces, "AUDIO": silence[:4]})
    mouths[3] = 255 - mouths[3]
    manifest = Manifest.load(folder)
    kept = {name: entry for name, entry in manifest.files.items() if not name.startswith("idle")}
    dataclasses.replace(manifest, files=kept, idle_key=None).save(folder)
    for name in ("idle_data", "idle_offsets"):
        (folder / f"{name}.npy").unlink()
    write_idle(folder, [mouths])
    assert "frame 3 has a PSNR of" in bad(avatars)["idle frames"]


def rounded_network(half: bool) -> onnx.ModelProto:
    """The same picture by other arithmetic: a little light more, or the light in half precision."""
    model = network_graph()
    (multiply,) = (node for node in model.graph.node if node.op_type == "Mul")
    multiply.output[0] = "exact"
    at = list(model.graph.node).index(multiply) + 1
    if half:
        new = [
            helper.make_node("Cast", ["exact"], ["halved"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["halved"], ["light"], to=TensorProto.FLOAT),
        ]
    else:
        new = [helper.make_node("Add", ["exact", "little"], ["light"])]
        model.graph.initializer.append(numpy_helper.from_array(np.array(1.0, np.float32), "little"))
    nodes = [*model.graph.node[:at], *new, *model.graph.node[at:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("half", [False, True])
def test_other_arithmetic_is_no_damage(avatars: Path, half: bool) -> None:
    """Half precision, or every value off by one as another processor might compute it."""
    save_network(avatars, rounded_network(half))
    found = findings(avatars)
    assert all(finding.good for finding in found.values()), found
    if not half:
        assert "0 of 4 drawn anew are equal, the others alike to 4" in found["idle frames"].text


def test_a_network_that_draws_one_colour(avatars: Path) -> None:
    """As one whose weights are lost, or that computes NaN, does: its key is still right."""
    model = network_graph()
    for weight in model.graph.initializer:
        if weight.name == "10":
            weight.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "10"))
    save_network(avatars, model)
    text = bad(avatars)["speech"]
    assert "network.onnx draws nothing but the value" in text


@pytest.mark.parametrize(
    ("scale", "error"), [(np.nan, "makes NaN or infinity of speech"), (0.0, "makes the same of every moment")]
)
def test_an_encoder_that_hears_nothing(avatars: Path, scale: float, error: str) -> None:
    save_encoder(avatars, encoder_graph(scale))
    assert f"encoder.onnx {error}" in bad(avatars)["speech"]


def test_a_key_that_is_right_for_two_frames_only(avatars: Path) -> None:
    """Whoever looks at a batch of two sees nothing."""
    model = network_graph()
    (expand,) = (node for node in model.graph.node if node.op_type == "Expand")
    expand.output[0] = "keys"
    extra = [
        helper.make_node("Greater", ["batch", "two"], ["many"]),
        helper.make_node("Cast", ["many"], ["off"], to=TensorProto.INT64),
        helper.make_node("Add", ["keys", "off"], ["AVATAR_KEY"]),
    ]
    model.graph.node.extend(extra)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
    save_network(avatars, model)
    texts = bad(avatars)
    assert "network" not in texts
    assert "gives AVATAR_KEY" in texts["speech"]


def test_what_is_not_whole_is_not_run(avatars: Path) -> None:
    (avatars / "ann" / "network.onnx").unlink()
    texts = bad(avatars)
    assert texts["speech"] == "not looked at: network must be whole first"
    assert "all frames" not in texts


def test_without_a_manifest_there_is_one_finding(avatars: Path) -> None:
    (avatars / "ann" / MANIFEST_NAME).unlink()
    assert list(findings(avatars)) == ["manifest"]


# --- the other kinds of avatar ---
@pytest.mark.parametrize("audio", [(16, 32, 32), (128, 16, 32)])
def test_an_avatar_whose_features_come_ready(tmp_path: Path, audio: tuple[int, ...]) -> None:
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(size_px=160, audio=audio), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    found = findings(sources.avatars)
    assert all(finding.good for finding in found.values()), found
    assert "drawn to made-up features" in found["speech"].text
    assert found["idle frames"].text.startswith("none: ")


def test_an_avatar_whose_network_takes_mel(tmp_path: Path) -> None:
    """Drawn to real speech, and idle frames to silence, without an encoder."""
    sources = Sources.write(tmp_path)
    onnx.save(network_graph(size_px=96, audio=(1, 80, 16)), str(sources.network))
    settings = sources.settings(network=NetworkSource(sources.network), encoder=None)
    build_avatar(settings, open_frames(sources.frames), BOXES)
    found = findings(sources.avatars)
    assert all(finding.good for finding in found.values()), found
    assert "drawn to speech" in found["speech"].text
    assert found["idle frames"].text == "4 of 4 drawn anew are equal"


# --- parts ---
def test_similarity_by_the_definition_of_psnr() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (50, 40, 3)).astype(np.uint8)
    other = one.copy()
    other[:16, :16] ^= 8
    whole_db, tile_db = similarity(one, other)
    assert whole_db == pytest.approx(10 * math.log10(65025 / (64 * 256 / 2000)), abs=1e-4)
    assert tile_db <= 10 * math.log10(65025 / (64 * 0.7))
    assert similarity(one, one) == (math.inf, math.inf)
    assert similarity(one[:5, :5], one[:5, :5]) == (math.inf, math.inf)


def test_frames_are_taken_from_all_over() -> None:
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(100, 3).tolist() == [0, 50, 99]
    assert len(spread(100_000, 300)) == 300


def test_speech_is_read_as_soundfile_reads_it() -> None:
    import soundfile

    expected, rate_hz = soundfile.read(SPEECH, dtype="int16")
    assert rate_hz == 16_000
    np.testing.assert_array_equal(read_speech(SPEECH), expected)


@pytest.mark.parametrize(
    ("name", "error"),
    [("gone.flac", "cannot be read: .*No such file"), ("empty.flac", "is no recording of 16-bit samples")],
)
def test_speech_that_is_not_there(tmp_path: Path, name: str, error: str) -> None:
    (tmp_path / "empty.flac").touch()
    with pytest.raises(ExportError, match=error):
        read_speech(tmp_path / name)


def test_only_some_idle_frames_of_a_long_avatar(avatars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_check, "IDLE_FRAMES", 2)
    assert findings(avatars)["idle frames"].text == "2 of 2 drawn anew are equal"


# --- command line ---
def test_the_command(
    avatars: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check", "--deep", str(avatars / "ann")]) == 0
    assert "4 of 4 drawn anew are equal" in capsys.readouterr().out
    assert main(["check", "--deep", str(avatars)]) == 0
    save_encoder(avatars, encoder_graph(scale=-4.0))
    assert main(["check", str(avatars)]) == 0
    assert "drawn anew" not in capsys.readouterr().out.splitlines()[-1]
    assert main(["check", "--deep", str(avatars)]) == 1
    assert "does not show what the networks draw to silence" in capsys.readouterr().out


def test_torch_is_not_needed(whole: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from export.cli import main\n"
        f"sys.exit(main(['check', '--deep', {json.dumps(str(whole))}]))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
