"""The live terminal view of a sweep: what is done, running and failed, and an ETA from the Gflops left.

In a terminal a table is redrawn in place; elsewhere (a log file, CI) a line is printed when something happens and one
now and then. It is told events and knows nothing of Ray or MLflow.
"""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from harness.progress import QUIET_SECONDS, clock

HELD_OUT = ("val_loss", "diffusion_loss")  # of an evaluation: the first of them that the objective has is shown


@dataclass
class Row:
    """One trial on the screen. `work` is its whole cost in 1e9 multiply-adds, training and sampling."""

    name: str
    images: int
    work: float
    state: str = "waiting"
    seen: int = 0
    done: float = 0.0  # share of `work`
    latest: dict[str, float] = field(default_factory=dict)
    reason: str = ""


class View:
    """Give it rows by trial id, then events; use it as a context manager.

    `update` takes images seen, the share of the trial's work done, and whatever metrics there are.
    """

    def __init__(self, title: str, rows: dict[str, Row], finished: int, console: Console):
        self.title, self.rows, self.finished, self.console = title, rows, finished, console
        self.started, self._last_line = time.monotonic(), 0.0
        self._first: tuple[float, float] | None = None  # when work was first seen done, and how much
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "View":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def begin(self, trial_id: str) -> None:
        self.rows[trial_id].state = "running"

    def update(self, trial_id: str, metrics: dict[str, float]) -> None:
        row = self.rows[trial_id]
        row.seen, row.done = int(metrics["images"]), metrics["share"]
        row.latest |= metrics
        if "fid" in metrics:
            held_out = next((f", {name} {metrics[name]:.4f}" for name in HELD_OUT if name in metrics), "")
            self._say(f"{row.name}: {row.seen:,} images, FID {metrics['fid']:.1f}{held_out}")
        elif not self.console.is_terminal and time.monotonic() - self._last_line > QUIET_SECONDS:
            self._say(f"{row.name}: {row.seen:,} images, loss {metrics['loss']:.4f}")

    def end(self, trial_id: str, reason: str = "", state: str = "failed") -> None:
        """With a reason the trial has failed, or diverged."""
        row = self.rows[trial_id]
        row.state, row.reason = (state, reason) if reason else ("done", "")
        if reason:
            row.work *= row.done  # what is left of it will not be done
        row.done = 1.0
        self._say(f"{row.name}: {row.state}{': ' + reason if reason else ''}")

    def count(self, state: str) -> int:
        return sum(row.state == state for row in self.rows.values())

    def eta(self) -> float | None:
        """Seconds left, from the Gflops done since the first were seen; None before there is anything to go by."""
        done = sum(row.done * row.work for row in self.rows.values())
        left = sum((1 - row.done) * row.work for row in self.rows.values())
        now = time.monotonic()
        if self._first is None:
            if done:
                self._first = (now, done)
            return None
        since, at = self._first
        return left * (now - since) / (done - at) if done > at else None

    def headline(self) -> str:
        eta, diverged = self.eta(), self.count("diverged")
        return (
            f"{self.title}: {self.count('done') + self.finished} done, {self.count('running')} running, "
            f"{f'{diverged} diverged, ' if diverged else ''}{self.count('failed')} failed, "
            f"{self.count('waiting')} to do"
            f"  [{clock(time.monotonic() - self.started)}{f', about {clock(eta)} left' if eta is not None else ''}]"
        )

    def table(self) -> Table:
        table = Table(title=self.headline(), title_justify="left", box=None, padding=(0, 1))
        table.add_column("trial", no_wrap=True)
        for name in ("state", "images", "loss", "val_loss", "FID", "images/s"):
            table.add_column(name, justify="right")
        style = {"running": "bold", "failed": "red", "diverged": "yellow", "done": "green", "waiting": "dim"}
        for row in self.rows.values():
            shown = [
                f"{row.latest[name]:{form}}" if name in row.latest else ""
                for name, form in (("loss", ".4f"), ("val_loss", ".4f"), ("fid", ".1f"), ("images_per_second", ".0f"))
            ]
            table.add_row(row.name, row.state, f"{row.seen:,}/{row.images:,}", *shown, style=style[row.state])
        return table

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        text = line if self.console.is_terminal else f"{line}  |  {self.headline()}"
        self.console.print(text, highlight=False, soft_wrap=True)
