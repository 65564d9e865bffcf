"""The door: `python -m sweeps run|plan|status|list`, as the Makefile calls it."""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import sweeps
from harness.config import ConfigError, Trial, lookup_scale, override

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Name = Annotated[str, typer.Argument(help="the sweep: a file of this folder")]
ScaleName = Annotated[str, typer.Option("--scale", help="smoke, cpu, gpu or paper; by default what this machine has")]
Settings = Annotated[str, typer.Option("--set", help='overrides: "train.images=50000 seeds=3"')]
ExtractorName = Annotated[str, typer.Option("--extractor", help="feature extractor of FID: lite0 or inception")]
Out = Annotated[Path, typer.Option("--out", help="folder of everything that is made")]
Data = Annotated[Path, typer.Option("--data", help="folder of the datasets")]


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(sweeps.__path__) if not m.name.startswith("_"))


def expand(sweep: str, scale: str, settings: str, extractor: str) -> list[Trial]:
    """The cells of a sweep. Raises ConfigError for whatever is unknown or cannot be built."""
    if sweep not in names():
        raise ConfigError(f"unknown sweep '{sweep}'; allowed: {', '.join(names())}")
    from harness.trial import check

    scale = scale or default_scale()
    lookup_scale(scale)
    chosen = importlib.import_module(f"sweeps.{sweep}").trials(scale)
    if extractor:
        settings = f"{settings} evaluate.extractor={extractor}"
    cells = override(chosen, settings)
    for cell in cells:
        check(cell)
    return cells


def default_scale() -> str:
    from harness import hardware

    return "gpu" if hardware.device() == "cuda" else "cpu"


def plain_errors(command: Callable) -> Callable:
    """A ConfigError is one line for people and exit code 2, never a traceback."""

    @wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None

    return call


@app.command("list")
def list_sweeps() -> None:
    """Every sweep with the first line of what it says of itself."""
    for name in names():
        about = (importlib.import_module(f"sweeps.{name}").__doc__ or "").strip().splitlines()[0]
        print(f"{name:14} {about}")


@app.command()
@plain_errors
def plan(
    sweep: Name, scale: ScaleName = "", settings: Settings = "", extractor: ExtractorName = "",
    out: Out = Path("runs"), data: Data = Path("data"),
    form: Annotated[str, typer.Option("--format", help="table or json")] = "table",
) -> None:  # fmt: skip
    """What would be run, and what it costs, before spending any."""
    if form not in ("table", "json"):
        raise ConfigError(f"--format: unknown format '{form}'; allowed: table, json")
    cells = expand(sweep, scale, settings, extractor)
    from harness import estimate, hardware
    from harness.cost import cost

    speed, device = estimate.measure(out / "cache"), hardware.device()
    known = statuses(cells, out)
    rows = []
    for cell in cells:
        priced, images = cost(cell), cell.train.steps * cell.train.batch
        rows.append({
            "id": cell.id, "name": cell.name, "size": cell.model.size, "depth": cell.model.depth,
            "width": cell.model.width, "heads": cell.model.heads, "patch": cell.model.patch,
            "conditioning": cell.model.conditioning, "tokens": priced.tokens,
            "params_m": round(priced.params / 1e6, 4), "gflops": round(priced.gflops, 6),
            "train_gflops": round(priced.train_gflops(images), 3), "images": images, "seed": cell.seed,
            "seconds": round(speed.seconds(cell), 1), "memory_gb": round(estimate.memory(cell, device) / 1e9, 2),
            "status": known.get(cell.id, ("to do", ""))[0],
        })  # fmt: skip
    if form == "json":
        print(json.dumps(rows, indent=1))
        return
    show_plan(sweep, rows, workers(device))


def show_plan(sweep: str, rows: list[dict], at_once: int) -> None:
    from harness.view import clock

    table = Table(box=None, padding=(0, 1), title=f"{sweep}: {len(rows)} trials", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for name in ("tokens", "params M", "Gflops", "train Gflops", "images", "time", "GB", "status"):
        table.add_column(name, justify="right")
    for r in rows:
        table.add_row(
            r["name"], f"{r['tokens']}", f"{r['params_m']:.2f}", f"{r['gflops']:.4g}", f"{r['train_gflops']:.3g}",
            f"{r['images']:,}", clock(r["seconds"]), f"{r['memory_gb']:.1f}", r["status"],
        )  # fmt: skip
    console = Console(width=max(120, Console().width))
    console.print(table, highlight=False)
    left = [r for r in rows if r["status"] != "done"]
    wall = max([sum(r["seconds"] for r in left) / at_once, *(r["seconds"] for r in left)]) if left else 0
    console.print(
        f"{len(rows) - len(left)} done, {len(left)} to do: {sum(r['train_gflops'] for r in left):.3g} training Gflops, "
        f"about {clock(wall)} on this machine with {at_once} trials at a time\n"
        "(Gflops: forward multiply-adds of one image, the paper's convention; times are a forecast)",
        highlight=False,
    )


@app.command()
@plain_errors
def run(
    sweep: Name, scale: ScaleName = "", settings: Settings = "", extractor: ExtractorName = "",
    out: Out = Path("runs"), data: Data = Path("data"),
) -> None:  # fmt: skip
    """Run what is not yet done, then write the report. Ends non-zero if a trial failed."""
    cells = expand(sweep, scale, settings, extractor)
    from harness.launch import launch, only_driver
    from harness.tracking import Store, default_uri
    from harness.trial import Place

    console = Console(file=sys.stdout)  # held: Tune prints to sys.stdout, which is silenced meanwhile
    place = Place(data.resolve(), out.resolve())
    with only_driver(place.out):
        store = Store(default_uri(place.out), place.out)
        outcome = launch(cells, sweep, store, place, console)
        done = len(cells) - len(outcome.failed)
        now = f", {len(outcome.finished)} of them now" if outcome.finished else ""
        left = ", the same command goes on with the rest" if outcome.failed else ", nothing left to train"
        console.print(f"{sweep}: {done} of {len(cells)} trials done{now}{left}", highlight=False)
        for name, reason in outcome.failed.items():
            console.print(f"failed: {name}: {reason}", style="red", highlight=False, markup=False)
        if done:
            page = report(sweep, store, place.out, outcome)
            console.print(f"report: {os.path.relpath(page)}", highlight=False, soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)


def report(sweep: str, store: Any, out: Path, outcome: Any) -> Path:
    """Draw the sweep's report, unless it lies there and nothing has changed, and keep it on the sweep's parent run."""
    from analysis.report import write

    page = out / "reports" / sweep / "report.html"
    if outcome.finished or outcome.failed or not page.exists():
        page = write(store.uri, sweep, out)
        store.attach(outcome.parent, page)
    return page


@app.command()
@plain_errors
def status(
    sweep: Name, scale: ScaleName = "", settings: Settings = "", extractor: ExtractorName = "",
    out: Out = Path("runs"), data: Data = Path("data"),
) -> None:  # fmt: skip
    """Which trials are done, running, failed or to do."""
    cells = expand(sweep, scale, settings, extractor)
    known = statuses(cells, out)
    for cell in cells:
        state, reason = known.get(cell.id, ("to do", ""))
        print(f"{state:8} {cell.id}  {cell.name}{f'  ({reason})' if reason else ''}")


@app.command()
@plain_errors
def links(address: Annotated[str, typer.Argument(help="of the MLflow UI")], out: Out = Path("runs")) -> None:
    """Where in the MLflow UI each sweep's charts are: its own front page is about language models."""
    from harness.tracking import Store, default_uri

    for name, experiment in sorted(Store(default_uri(out), out).experiments().items()):
        page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        print(f"{name:14} {address}/{page}")


WORDS = {"FINISHED": "done", "FAILED": "failed", "KILLED": "to do", "RUNNING": "running", "SCHEDULED": "to do"}


def statuses(cells: list[Trial], out: Path) -> dict[str, tuple[str, str]]:
    """trial id -> (status, reason) of the trials that have a run; no store is made just to look."""
    if not (os.environ.get("MLFLOW_TRACKING_URI") or (out / "mlflow.db").exists()):
        return {}
    from harness.tracking import Store, default_uri

    found = Store(default_uri(out), out).runs(cell.id for cell in cells)
    return {key: (WORDS[run.status], run.reason if run.status == "FAILED" else "") for key, run in found.items()}


def workers(device: str) -> int:
    """Trials at a time on this machine."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    from harness.launch import cpus

    return cpus()


if __name__ == "__main__":
    app(prog_name="python -m sweeps")
