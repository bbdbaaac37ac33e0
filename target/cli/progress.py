"""The bar of long work that a command follows."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

POLL_SECONDS: Final = 0.5  # how often the node is asked


def progress(unit: str, *, quiet: bool) -> Progress:
    """Of so many ``unit``; its tasks have the fields ``rate`` and ``trouble``.

    On the standard error; ``quiet``: a program reads that.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "  {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[trouble]}", style="yellow", markup=False),
        console=Console(stderr=True),
        transient=False,
        disable=quiet,
    )
