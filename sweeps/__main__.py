"""The door: `python -m sweeps run|plan|status|list|export`, as the Makefile calls it."""

import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import sweeps
from harness.config import Trial, lookup_scale, override
from harness.config import names as display_names
from harness.errors import ConfigError

GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and either under Windows
SHOWN = 200  # trials a plan's table shows; its JSON has all

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
    """The cells of a sweep. Raises ConfigError for an unknown sweep, scale or override, or a value out of range."""
    if sweep not in names():
        raise ConfigError(f"unknown sweep '{sweep}'; allowed: {', '.join(names())}")
    scale = scale or default_scale()
    lookup_scale(scale)
    chosen = importlib.import_module(f"sweeps.{sweep}").trials(scale)
    if extractor:
        settings = f"{settings} evaluate.extractor={extractor}"
    return override(chosen, settings)


def members(sweep: str) -> tuple[str, ...]:
    """The sweeps that a sweep runs: itself, unless its file names others in SWEEPS."""
    if sweep not in names():
        return (sweep,)
    return getattr(importlib.import_module(f"sweeps.{sweep}"), "SWEEPS", (sweep,))


def checked(cells: list[Trial], data: Path) -> list[Trial]:
    """The cells, all of which can be built. Raises ConfigError for the first that cannot."""
    from harness.data.registry import discover
    from harness.trial import check

    for name in {cell.data.dataset for cell in cells}:
        discover(name, data)
    for cell in cells:
        check(cell)
    return cells


def default_scale() -> str:
    """`gpu` where torch has one to compute on. A machine without a GPU's device node is spared importing torch."""
    if sys.platform == "linux" and not any(map(os.path.exists, GPU_NODES)):
        return "cpu"
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
    cells = checked(expand(sweep, scale, settings, extractor), data)
    from harness import estimate, hardware
    from harness.cost import cost
    from harness.launch.tune import trainers

    speed, device = estimate.measure(out / "cache"), hardware.device()
    known, called = statuses(cells, out), display_names(cells)
    trains = trainers([t for t in cells if known.get(t.id, ("",))[0] not in OVER], weights(cells, out))
    rows = []
    for cell in cells:
        priced, images = cost(cell), cell.train.steps * cell.train.batch
        state = known.get(cell.id, ("to do", ""))[0]
        rows.append({
            "id": cell.id, "name": called[cell.id], "size": cell.model.size, "depth": cell.model.depth,
            "width": cell.model.width, "heads": cell.model.heads, "patch": cell.model.patch,
            "conditioning": cell.model.conditioning, "tokens": priced.tokens,
            "params_m": round(priced.params / 1e6, 4), "gflops": round(priced.gflops, 6),
            "train_gflops": round(priced.train_gflops(images), 3), "images": images, "seed": cell.seed,
            "seconds": round(speed.seconds(cell, cell in trains), 1),
            "memory_gb": round(estimate.memory(cell, device) / 1e9, 2),
            "status": "to measure" if state == "to do" and cell not in trains else state,
        })  # fmt: skip
    if form == "json":
        print("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")  # a line a trial: `indent` would be far slower
        return
    show_plan(sweep, rows, workers(device))


def show_plan(sweep: str, rows: list[dict], at_once: int) -> None:
    from harness.progress import clock

    table = Table(box=None, padding=(0, 1), title=f"{sweep}: {len(rows)} trials", title_justify="left")
    table.add_column("trial", no_wrap=True)
    for name in ("tokens", "params M", "Gflops", "train Gflops", "images", "time", "GB", "status"):
        table.add_column(name, justify="right")
    for r in rows[:SHOWN]:
        table.add_row(
            r["name"], f"{r['tokens']}", f"{r['params_m']:.2f}", f"{r['gflops']:.4g}", f"{r['train_gflops']:.3g}",
            f"{r['images']:,}", clock(r["seconds"]), f"{r['memory_gb']:.1f}", r["status"],
        )  # fmt: skip
    console = Console(width=max(120, Console().width))
    console.print(table, highlight=False)
    if len(rows) > SHOWN:
        console.print(f"... and {len(rows) - SHOWN:,} more; FORMAT=json lists them all", highlight=False)
    left = [r for r in rows if r["status"] not in OVER]
    wall = max([sum(r["seconds"] for r in left) / at_once, *(r["seconds"] for r in left)]) if left else 0
    trained = sum(r["train_gflops"] for r in left if r["status"] != "to measure")
    console.print(
        f"{len(rows) - len(left)} done, {len(left)} to do: {trained:.3g} training Gflops, "
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
    parts = {part: expand(part, scale, settings, extractor) for part in members(sweep)}
    console = Console(file=sys.stdout)  # held: Tune prints to sys.stdout, which is silenced meanwhile
    left = {}
    for part, cells in parts.items():
        diverged = complete(part, cells, out, data)
        if diverged is not None:  # the usual case of a repeated command: no torch, no Ray
            say_end(console, part, len(cells), [], {}, diverged, page_of(part, out))
        else:
            left[part] = cells
    fine = not left or all(train(left, out, data, console))
    if len(parts) > 1:
        say_study(bool(left), out, console)
    if not fine:
        raise typer.Exit(1)


def train(parts: dict[str, list[Trial]], out: Path, data: Path, console: Console) -> list[bool]:
    """Launch sweeps one after another on one cluster, each with its report; for each, whether no trial failed."""
    from harness.launch.cluster import cluster, only_driver

    with cluster() as device_of:
        from harness.launch.tune import launch  # takes seconds, in which the cluster starts
        from harness.tracking.store import Store, default_uri
        from harness.trial import Place

        for cells in parts.values():
            checked(cells, data)
        place, fine = Place(data.resolve(), out.resolve()), []
        with only_driver(place.out):
            store = Store(default_uri(place.out), place.out)
            for sweep, cells in parts.items():
                outcome = launch(cells, sweep, store, place, device_of, console)
                page = None
                if len(outcome.failed) + len(outcome.diverged) < len(cells):
                    from analysis.report import write

                    page, known = page_of(sweep, out), store.runs(cell.id for cell in cells)
                    over = [cell.id for cell in cells if cell.id in known and known[cell.id].over]
                    store.attach(outcome.parent, write(store.uri, sweep, place.out), over)
                say_end(console, sweep, len(cells), outcome.finished, outcome.failed, outcome.diverged, page)
                fine.append(not outcome.failed)
    return fine


def say_study(anew: bool, out: Path, console: Console) -> None:
    """Where the one report of every sweep of the store is; it is written where there is something new for it."""
    page = page_of("study", out)
    if anew or not page.exists():
        from analysis import report
        from harness.tracking.store import default_uri

        page = report.write_study(default_uri(out.resolve()), out)
    console.print(f"all sweeps: {os.path.relpath(page)}", highlight=False, soft_wrap=True)


def page_of(sweep: str, out: Path) -> Path:
    return out / "reports" / sweep / "report.html"


def complete(sweep: str, cells: list[Trial], out: Path, data: Path) -> dict[str, str] | None:
    """If every cell is over, and they are those that the sweep's report shows: which of them diverged.

    Name -> reason of those; None if there is something left to do, or to find out: a dataset of the user's own may have
    been made anew, which only reading it tells.
    """
    if not page_of(sweep, out).exists() or any((data / cell.data.dataset).is_dir() for cell in cells):
        return None
    store, wanted = store_there(out), [cell.id for cell in cells]
    if store is None or not store.cells(sweep) == store.reported(sweep) == wanted:
        return None
    known = store.runs(wanted)
    if not all(key in known and known[key].over for key in wanted):
        return None
    called = display_names(cells)
    return {called[cell.id]: known[cell.id].reason for cell in cells if known[cell.id].diverged}


def say_end(
    console: Console, sweep: str, cells: int, now: list[str], failed: dict[str, str], diverged: dict[str, str],
    page: Path | None,
) -> None:  # fmt: skip
    """The last lines of a run: what was done, what diverged or failed and why, where the report is."""
    newly = f", {len(now)} of them now" if now else ""
    apart = f", {len(diverged)} diverged" if diverged else ""
    left = "the same command goes on with the rest" if failed else "nothing left to train"
    done = cells - len(failed) - len(diverged)
    console.print(f"{sweep}: {done} of {cells} trials done{newly}{apart}, {left}", highlight=False)
    for word, style, those in (("diverged", "yellow", diverged), ("failed", "red", failed)):
        for name, reason in those.items():
            console.print(f"{word}: {name}: {reason}", style=style, highlight=False, markup=False)
    if page:
        console.print(f"report: {os.path.relpath(page)}", highlight=False, soft_wrap=True)


@app.command()
@plain_errors
def status(
    sweep: Name, scale: ScaleName = "", settings: Settings = "", extractor: ExtractorName = "",
    out: Out = Path("runs"), data: Data = Path("data"),
) -> None:  # fmt: skip
    """Which trials are done, running, failed or to do."""
    cells = checked(expand(sweep, scale, settings, extractor), data)
    known = statuses(cells, out)
    for cell in cells:
        state, reason = known.get(cell.id, ("to do", ""))
        print(f"{state:8} {cell.id}  {cell.name}{f'  ({reason})' if reason else ''}")


@app.command()
@plain_errors
def links(address: Annotated[str, typer.Argument(help="of the MLflow UI")], out: Out = Path("runs")) -> None:
    """Where in the MLflow UI each sweep's charts are: its own front page is about language models."""
    from harness.tracking.store import Store, default_uri

    for name, experiment in sorted(Store(default_uri(out), out).experiments().items()):
        page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        print(f"{name:14} {address}/{page}")


@app.command()
@plain_errors
def export(
    run: Annotated[str, typer.Argument(help="a finished run: its name or id, or the folder of its weights")],
    to: Annotated[Path, typer.Option("--to", help="folder to write")],
    form: Annotated[str, typer.Option("--format", help="diffusers or official")] = "diffusers",
    coder: Annotated[Path | None, typer.Option("--autoencoder", help="folder of the AutoencoderKL of latents")] = None,
    out: Out = Path("runs"), data: Data = Path("data"),
) -> None:  # fmt: skip
    """Write a run's EMA weights for other programs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(run) if os.path.isdir(run) else fetched(run, out, Path(scratch))
        from harness import interop  # takes seconds, which a wrong name should not

        network = interop.load_run(folder, data)
    print(interop.export(replace(network, coder=coder) if coder else network, to, form))


def fetched(run: str, out: Path, scratch: Path) -> Path:
    """The weights of a finished run, in a folder inside `scratch`. Raises ConfigError if there is no such run."""
    from harness.tracking import store as tracking

    store = store_there(out)
    if store is None:
        raise ConfigError(f"--out: '{out}' has no runs yet; allowed: the folder of a sweep that was run")
    return tracking.weights(store.uri, store.finished(run), scratch).parent


OVER = ("done", "diverged")  # what is not run again
WORDS = {"FINISHED": "done", "FAILED": "failed", "KILLED": "to do", "RUNNING": "running", "SCHEDULED": "to do"}


def statuses(cells: list[Trial], out: Path) -> dict[str, tuple[str, str]]:
    """trial id -> (status, reason) of the trials that have a run."""
    store = store_there(out)
    found = store.runs(cell.id for cell in cells) if store else {}
    return {
        key: ("diverged" if run.diverged else WORDS[run.status], run.reason if run.status == "FAILED" else "")
        for key, run in found.items()
    }


def weights(cells: list[Trial], out: Path) -> dict[str, str]:
    """training id -> the finished run that has its weights."""
    store = store_there(out)
    return store.trained(cell.training_id for cell in cells) if store else {}


def store_there(out: Path) -> Any:
    """The tracking store, or None where there is none yet: none is made just to look."""
    if not (os.environ.get("MLFLOW_TRACKING_URI") or (out / "mlflow.db").exists()):
        return None
    from harness.tracking.store import Store, default_uri

    return Store(default_uri(out), out)


def workers(device: str) -> int:
    """Trials at a time on this machine."""
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    from harness.launch.cluster import cpus

    return cpus()


if __name__ == "__main__":
    app(prog_name="python -m sweeps")
