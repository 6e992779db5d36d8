from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from compositor_backend.errors import PackError
from perf import cli, suite
from perf.bench import Bench
from perf.results import Report, Section
from perf.suite import Case
from perf.table import BEGIN, END
from perf.targets import TARGETS
from tests.unit.perf.sample import SERVING, STAGES, figures, report


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cases of our own in place of the suite's: two that measure, one that fails, one that is interrupted."""

    def measure(name: str, bench: Bench) -> Section:
        bench.tell(f"measuring {name}")
        if name == "bad":
            raise PackError("the pack is damaged")
        if name == "interrupted":
            raise KeyboardInterrupt
        return {"stages": STAGES, "serving": SERVING}[name]

    names = ["stages", "serving", "bad", "interrupted"]
    made = []
    for name in names:
        module = ModuleType(f"made_up_{name}")
        module.measure = lambda bench, name=name: measure(name, bench)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        made.append(Case(name, module.__name__, quick=name == "stages"))
    monkeypatch.setattr(cli, "select", lambda quick, only, gpu: suite.select(quick, only, made, gpu))
    return names


def saved(path: Path, found: Report | None = None) -> Path:
    (found or report()).save(path)
    return path


def test_a_run_measures_saves_and_reports(
    cases: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--quick", "--out", str(tmp_path / "new")]) == 0
    assert Report.load(tmp_path / "new" / "report.json").sections == (STAGES,)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'new' / 'report.md'}\n"
    assert "stages measured in" in printed.err
    assert "## Stages of a frame" in (tmp_path / "new" / "report.md").read_text(encoding="utf-8")


def test_only_some_cases_can_be_asked_for(cases: list[str], tmp_path: Path) -> None:
    assert cli.main(["run", "--only", "serving, stages", "--out", str(tmp_path)]) == 0
    found = Report.load(tmp_path / "report.json")
    assert found.sections == (STAGES, SERVING)
    assert found.scale == "full"


@pytest.mark.parametrize(
    ("failing", "status", "words"),
    [
        ("bad", 1, "error: bad could not be measured: the pack is damaged\n"),
        ("interrupted", 130, "interrupted\n"),
    ],
)
def test_what_was_measured_before_a_failure_is_reported(
    failing: str,
    status: int,
    words: str,
    cases: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["run", "--only", f"stages,{failing}", "--out", str(tmp_path)]) == status
    assert capsys.readouterr().err.endswith(words)
    assert Report.load(tmp_path / "report.json").sections == (STAGES,)
    assert (tmp_path / "report.md").exists()


def test_a_run_that_measured_nothing_leaves_the_report_of_before(cases: list[str], tmp_path: Path) -> None:
    before = saved(tmp_path / "report.json")
    assert cli.main(["run", "--only", "bad", "--out", str(tmp_path)]) == 1
    assert Report.load(before) == report()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --only nothing", "there is no case 'nothing'"),
        ("run --quick --out {file}/out", "cannot be made"),
        ("report {file}", "is not a report of this version"),
        ("targets {folder}/none.json", "is not there"),
        ("compare {report} {file}", "is not a report of this version"),
        ("compare {folder} {report}", "cannot be read"),
        ("table {report} --readme {file}", "has no place for the table"),
        ("table {report} --readme {folder}/none.md", "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    line: str, words: str, cases: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("{}", encoding="utf-8")
    places = {"file": file, "folder": tmp_path, "report": saved(tmp_path / "report.json")}
    assert cli.main([word.format(**places) for word in line.split()]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert file.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("line", ["unknown", "run --unknown", "compare one.json"])
def test_a_wrong_line_ends_with_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    assert "usage: python -m perf" in capsys.readouterr().err


def test_a_report_is_written_again_beside_its_json(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.json")
    assert cli.main(["report", str(path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "other.json",
        "report.md",
        "stages.png",
        "streams.png",
        "waterfall.png",
    }


def test_a_comparison_is_printed_whatever_it_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved(tmp_path / "a.json", figures(idle__fps=2000))
    after = saved(tmp_path / "b.json", figures(idle__fps=1000))
    assert cli.main(["compare", str(before), str(after)]) == 0
    assert "| idle.fps | 2,000 | 1,000 | -50.0 % | worse |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (figures(idle__fps=2000), 0),
        (figures(idle__fps=1000), 1),
        (figures("full", idle__fps=2000), 1),
    ],
)
def test_targets_exit_with_a_failure_where_one_falls_short(
    found: Report, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["targets", str(saved(tmp_path / "report.json", found))]) == status
    lines = capsys.readouterr().out.splitlines()
    shows = [int(line.split()[0]) for line in lines]
    assert shows == sorted(target.show for target in TARGETS)


def test_the_table_is_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    line = ["table", str(saved(tmp_path / "report.json")), "--readme", str(readme)]
    assert cli.main([*line, "--check"]) == 1
    assert readme.read_text(encoding="utf-8") == f"{BEGIN}\n{END}\n"
    assert f"the table in {readme} is not that of" in capsys.readouterr().err
    assert cli.main(line) == 0
    assert "3.92 ms" in readme.read_text(encoding="utf-8")
    assert cli.main([*line, "--check"]) == 0
    saved(tmp_path / "report.json", figures(idle__fps=1))
    assert cli.main([*line, "--check"]) == 1


def test_a_readme_without_markers_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    good.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    bad.write_text("no markers", encoding="utf-8")
    path = str(saved(tmp_path / "report.json"))
    assert cli.main(["table", path, "--readme", str(good), "--readme", str(bad)]) == 2
    assert good.read_text(encoding="utf-8") == f"{BEGIN}\n{END}\n"


def test_without_a_command_the_help_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "perf"], capture_output=True, text=True, check=True)
    for command in ("run", "report", "compare", "targets", "table"):
        assert f"    {command} " in done.stdout
