"""The README's table of models says what contract and configs say, and its examples are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from compositor_backend.contract import ENSEMBLES, MODELS, Model, pcm_samples
from tests.support.config_contract import read_config

REPOSITORY = Path(__file__).parents[3] / "model_repository"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```", README, re.DOTALL))


def rows() -> dict[str, list[str]]:
    """The table's cells by model."""
    lines = [line.strip("|").split("|") for line in README.splitlines() if re.match(r"\| \**`\w+`", line)]
    return {name.strip(" *`"): [cell.strip() for cell in cells] for name, *cells in lines}


def tensors(cell: str) -> set[str]:
    return set(re.findall(r"[A-Z_]{3,}", cell))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_table_is_the_contracts(model: Model) -> None:
    inputs, outputs, batches, _ = rows()[model.name]
    assert tensors(inputs) == {tensor.name for tensor in model.inputs}
    assert tensors(outputs) == {tensor.name for tensor in model.outputs}
    assert batches == (f"{model.max_batch_size} rows" if model.max_batch_size else "")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_table_has_the_configs_numbers_of_processes(model: Model) -> None:
    told = rows()[model.name][-1]
    if model in ENSEMBLES:
        assert told == "ensemble"
        return
    folder = REPOSITORY / model.name
    embedded = folder / "configs" / "embedded.pbtxt"
    groups = [
        read_config(path).instance_group[0]
        for path in (folder / "config.pbtxt", embedded if embedded.exists() else folder / "config.pbtxt")
    ]
    per_gpu = " a GPU" if groups[0].kind == groups[0].KIND_GPU else ""
    assert told == f"{groups[0].count}{per_gpu} / {groups[1].count}"


def test_all_models_are_in_the_table() -> None:
    assert set(rows()) == {model.name for model in MODELS}


def test_the_example_in_python_is_short_and_needs_nothing_of_ours() -> None:
    lines = [line for line in EXAMPLES["python"].splitlines() if line]
    compile(EXAMPLES["python"], "README.md", "exec")
    assert len(lines) <= 10
    imported = re.findall(r"^(?:from|import) (\w+)", EXAMPLES["python"], re.MULTILINE)
    assert set(imported) <= {"numpy", "tritonclient"}


def test_the_example_in_curl_counts_its_bytes_right() -> None:
    """What is announced, what the pieces come to, and what the contract asks for."""
    found = re.search(r"request='(.*?)'", EXAMPLES["curl"], re.DOTALL)
    assert found is not None
    avatar, frames, pcm = json.loads(found[1])["inputs"]
    assert (avatar["name"], frames["name"], pcm["name"]) == ("AVATAR", "FRAME_INDEX", "PCM")
    assert pcm["shape"] == [pcm_samples(1)]
    pieces = [int(size) for size in re.findall(r"head -c (\d+)", EXAMPLES["curl"])]
    assert sum(pieces) == pcm["parameters"]["binary_data_size"] == 2 * pcm_samples(1)
    assert pieces[0] == 2 * 10 * 640
    assert found[1].isascii(), "the shell counts characters, Triton bytes"


def test_perf_analyzer_gets_the_ensemble() -> None:
    assert "perf_analyzer -m avatar " in EXAMPLES["perf_analyzer"]
    assert str(pcm_samples(5)) in EXAMPLES["perf_analyzer"]
