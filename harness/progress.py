"""How far a long piece of work is, for people: a clock, and a bar or lines with an ETA."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

QUIET_SECONDS = 30  # between progress lines where there is no terminal


def clock(seconds: float) -> str:
    """75 -> '1:15', 4000 -> '1:06:40'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def meter(about: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Progress with an ETA: call it with how much is done, of how much. A bar, or a line now and then in a log."""
    said, first = time.monotonic(), None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(about, total=None, eta="")

        def tell(done: int, total: int) -> None:
            nonlocal said, first
            now = time.monotonic()
            first = first or (now, done)
            since, at = first
            eta = f"about {clock((total - done) * (now - since) / (done - at))} left" if done > at else ""
            progress.update(task, completed=done, total=total, eta=eta)
            if not console.is_terminal and now - said > QUIET_SECONDS:
                said = now
                console.print(f"{about}: {done:,} of {total:,}, {eta}", highlight=False)

        yield tell
