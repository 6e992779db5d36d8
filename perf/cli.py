"""The command line of `perf`: measure, and read what was measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from compositor_backend.errors import LipstreamError
from perf import compare, table, targets
from perf.bench import DEFAULT_AVATARS, DEFAULT_OUT, Bench
from perf.display import Display
from perf.report import JSON_NAME, render, write_report
from perf.results import Report, make_folder, write_text
from perf.suite import CASES, CaseError, run, select

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_EPILOG = """\
Exit codes: 0 done; 1 a case could not be measured, a target is missed, or a README's table is not the report's;
2 usage, or a file that cannot be read; 130 interrupted. What was measured before a failure is kept."""

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without a command the help is shown."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Command | None = options.command
    if command is None:
        parser.print_help()
        return 0
    try:
        return command(options)
    except LipstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, CaseError) else EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    cases = select(options.quick, options.only, gpu=options.gpu)
    measured: list[Report] = []

    def keep(report: Report) -> None:
        report.save(options.out / JSON_NAME)
        measured.append(report)

    try:
        # Nobody is to learn after twenty minutes that the folder cannot be made.
        make_folder(options.out)
        with Display(Console(stderr=True), len(cases)) as display:
            bench = Bench(options.quick, options.avatars, options.out / "work", display.tell, options.gpu)
            run(bench, cases, display, keep)
    finally:
        if measured:
            print(write_report(measured[-1], options.out))
    return 0


def _report(options: argparse.Namespace) -> int:
    print(render(Report.load(options.report), options.report.parent))
    return 0


def _compare(options: argparse.Namespace) -> int:
    print(compare.describe(Report.load(options.before), Report.load(options.after)))
    return 0


def _targets(options: argparse.Namespace) -> int:
    results = list(targets.judge(Report.load(options.report)))
    for result in results:
        print(result.line)
    return EXIT_FAILED if any(result.fails for result in results) else 0


def _table(options: argparse.Namespace) -> int:
    # All are read before the first is written: a README without markers leaves the others as they were.
    outdated = table.outdated(Report.load(options.report), options.readme or table.READMES)
    for file, text in outdated.items():
        if options.check:
            print(f"error: the table in {file} is not that of {options.report}", file=sys.stderr)
        else:
            write_text(file, text)
            print(file)
    return EXIT_FAILED if options.check and outdated else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m perf",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="command")
    _add_run(commands.add_parser("run", help="measure, and write the report"))
    _add_report(commands.add_parser("report", help="write the report again, beside its JSON"), _report)
    compared = commands.add_parser("compare", help="what changed between two reports beyond noise")
    compared.add_argument("before", type=Path, metavar="A.json", help="the report of before")
    compared.add_argument("after", type=Path, metavar="B.json", help="the report of after")
    compared.set_defaults(command=_compare)
    _add_report(commands.add_parser("targets", help="a line for each target, and its verdict"), _targets)
    tables = commands.add_parser("table", help="write the READMEs' performance table from a report")
    _add_report(tables, _table)
    tables.add_argument(
        "--check", action="store_true", help="write nothing; 1 if a table is not the report's"
    )
    tables.add_argument(
        "--readme", type=Path, action="append", metavar="FILE", help="a file with the markers, again for more"
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(case.name for case in CASES)
    parser.set_defaults(command=_run)
    parser.add_argument("--quick", action="store_true", help="a minute instead of twenty, and fewer cases")
    parser.add_argument(
        "--only", type=_names, default=[], metavar="A,B", help=f"only these cases of: {names}"
    )
    parser.add_argument("--avatars", type=Path, default=DEFAULT_AVATARS, metavar="DIR", help="(avatars)")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="(out/perf)")
    parser.add_argument("--gpu", action="store_true", help="serve with the production configs, on a GPU")


def _add_report(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.set_defaults(command=command)
    default = DEFAULT_OUT / JSON_NAME
    parser.add_argument(
        "report", type=Path, nargs="?", default=default, metavar="REPORT", help=f"({default})"
    )
