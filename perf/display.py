"""Shows on a terminal how far a run of measurements is."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """A bar of cases with what is under way, and a line for each that is measured; a context manager.

    Where the console is no terminal only the lines are written.
    """

    def __init__(self, console: Console, cases: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._task = self._progress.add_task("", total=cases)
        self._case = ""
        self._began_s = 0.0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, case: str) -> None:
        """Show the case as the one under way."""
        self._case, self._began_s = case, time.monotonic()
        self.tell("")

    def tell(self, text: str) -> None:
        """Show what the case is doing."""
        words = f"{self._case}: {text}" if text else self._case
        self._progress.update(self._task, description=escape(words))

    def end(self, case: str) -> None:
        """Write a line that the case is measured, and how long it took."""
        self._console.print(f"{case} measured in {time.monotonic() - self._began_s:.1f} s", highlight=False)
        self._progress.advance(self._task)
