"""A progress bar on stderr for work that is done once, such as building a cache."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(
    label: str, total: int, show: bool | None, unit: str = "images"
) -> Iterator[Callable[[], None]]:
    """Show how much of ``total`` is done, how fast it goes and how long it still takes.

    Args:
        label: what is going on.
        total: number of calls to expect.
        show: None shows the bar where stderr is a terminal.
        unit: what one call stands for.

    Yields:
        A function to call once for each piece done, from any thread.
    """
    wanted = sys.stderr.isatty() if show is None else show
    try:
        if not wanted:
            raise ImportError
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text
    except ImportError:
        yield lambda: None
        return

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, force_terminal=show), disable=not wanted) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def short_label(source: str) -> str:
    """The last part of a path, short enough to stand beside a bar."""
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1][:24]
