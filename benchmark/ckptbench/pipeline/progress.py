"""Progress: a bar with an estimate on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich import progress as bars
from rich.console import Console


class Advance(Protocol):
    def __call__(self, steps: int = 1, note: str = "") -> None: ...


class Reporter:
    """Shows stages on standard error, so that standard output is the answer alone."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet

    def say(self, text: str) -> None:
        """One line, kept."""
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def damaged(self, files: list[str]) -> None:
        """Say what was damaged in the cache, once."""
        for line in files:
            self.say(f"damaged, and computed again: {line}")
        files.clear()

    @contextlib.contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """A stage of ``total`` steps; call what it yields with the steps done."""
        if self.quiet or total == 0:
            yield lambda steps=1, note="": None
        elif self.console.is_terminal:
            columns = (
                bars.TextColumn("{task.description:<10}"), bars.BarColumn(), bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
                bars.TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            with bars.Progress(*columns, console=self.console) as bar:
                task = bar.add_task(name, total=total, note="")
                yield lambda steps=1, note="": bar.update(task, advance=steps, note=note)
        else:
            yield _Lines(name, total)


class _Lines:
    """A line at the start, one every ten seconds, and one at the end."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        self.begun = self.said = time.monotonic()
        print(f"{name}: 0/{total}", file=sys.stderr, flush=True)

    def __call__(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        if self.done >= self.total or now - self.said > 10:
            self.said, spent = now, now - self.begun
            left = spent / max(self.done, 1) * (self.total - self.done)
            tail = f", about {left:.0f} s left" if self.done < self.total else f" in {spent:.1f} s"
            extra = f" ({note})" if note else ""
            print(f"{self.name}: {self.done}/{self.total}{tail}{extra}", file=sys.stderr, flush=True)
