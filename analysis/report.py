"""One self-contained page from what MLflow holds: headline numbers, figures, a table of all runs.

python -m analysis.report --sweep sizes [--out runs] [--from runs.parquet]
"""

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import pandas as pd
from matplotlib.figure import Figure

from analysis import claims, frames, pull, words
from analysis.figures import FIGURES, style
from harness.record import TAG_ID, TAG_KIND, TAG_PARENT, TAG_REASON, TAG_SWEEP

TRACKING = "MLFLOW_TRACKING_URI"  # environment variable of the tracking store
DATABASE = "mlflow.db"  # in the output folder, where no tracking store is named
LARGEST_SVG = 1_000_000  # bytes; a larger figure goes into the page as PNG


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it."""

    number: int
    name: str
    title: str
    caption: str
    source: str  # data URI


def write(tracking_uri: str, sweep: str, folder: str | Path) -> Path:
    """Pull a sweep and write `folder/reports/<sweep>/report.html`, its figures as PNG and SVG, and runs.parquet.

    Returns the page's path. Raises `pull.NoSuchSweep` if the store has no such sweep.
    """
    target = Path(folder) / "reports" / sweep
    frame = pull.pull(tracking_uri, sweep)
    return compose(frame, pull.samples(tracking_uri, frame, target / "samples"), sweep, target)


def compose(frame: pd.DataFrame, images: Mapping[str, Path], sweep: str, target: Path) -> Path:
    """The page of a frame that is already here. `images`: run id -> its sample sheet."""
    from jinja2 import Environment, PackageLoader

    target.mkdir(parents=True, exist_ok=True)
    pages = sections(frame, images, target)
    loader = PackageLoader("analysis", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2").render(
        sweep=sweep, summary=summary(frame), facts=_facts(frame), sections=pages, rows=claims.table(frame),
        columns=claims.COLUMNS, nothing=not len(frames.finished(frame)),
    )  # fmt: skip
    frame.to_parquet(target / "runs.parquet", index=False)
    path = target / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def sections(frame: pd.DataFrame, images: Mapping[str, Path], target: Path) -> list[dict]:
    """What the template draws, a section for each way of measuring; first, figures that compare ways of measuring."""
    taken: Counter[str] = Counter()  # files by the name of their figure
    drawn_number = count(1)

    def draw(part: pd.DataFrame, names: list[str]) -> list[Drawn]:
        members, drawn = set(part["run_id"]), []
        shown = {run_id: path for run_id, path in images.items() if run_id in members}
        for name in names:
            spec = FIGURES[name]
            if spec.applies(part) and (shown or not spec.needs_images):
                figure = spec.draw(part, shown) if spec.needs_images else spec.draw(part)
                taken[name] += 1
                stem = name if taken[name] == 1 else f"{name}-{taken[name]}"
                source = _save(figure, target / stem)
                drawn.append(Drawn(next(drawn_number), stem, spec.title, spec.caption(part), source))
        return drawn

    out, compared = [], set()
    for name, spec in FIGURES.items():
        for part in frames.groups(frame, spec.across) if spec.across else []:
            figures = draw(part, [name])
            if figures:
                compared |= set(part["run_id"])
                out.append({"setting": words.recipe(part), "headline": [], "figures": figures, "laws": []})
    plain = [name for name, spec in FIGURES.items() if not spec.across]
    for part in frames.groups(frame):
        if not set(part["run_id"]) <= compared:  # else they are in the comparison already
            setting = f"{words.recipe(part)}; {words.evaluation(part)}"
            figures, laws = draw(part, plain), claims.laws(part)
            out.append({"setting": setting, "headline": claims.headline(part), "figures": figures, "laws": laws})
    return out


def summary(frame: pd.DataFrame) -> str:
    """`12 runs: 11 finished, 1 failed`, or that nothing has finished yet."""
    states = frame.drop_duplicates("run_id")["status"].value_counts()
    counts = ", ".join(f"{count} {status.lower()}" for status, count in states.items())
    if not len(frame):
        return "Nothing has finished yet: no run has been started."
    if not len(frames.finished(frame)):
        return f"Nothing has finished yet: {counts}."
    return f"{int(states.sum())} run{'s' if states.sum() > 1 else ''}: {counts}."


def _save(figure: Figure, stem: Path) -> str:
    """Write the figure as PNG and SVG; returns the lighter of the two as a data URI."""
    with style.theme():
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    stem.with_suffix(".svg").write_bytes(svg)
    kind, data = ("svg+xml", svg) if len(svg) <= LARGEST_SVG else ("png", stem.with_suffix(".png").read_bytes())
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _facts(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, when, and with what: term and value."""
    runs = frame.drop_duplicates("run_id")
    spent = frame.groupby("run_id")["train_gflops"].max().sum()
    when = [f"{time:%d %B %Y %H:%M}" for time in (runs["started"].min(), runs["ended"].max()) if not pd.isna(time)]
    facts = [
        ("Training", words.recipe(frame)),
        ("Measured with", words.evaluation(frame)),
        ("Arithmetic", words.the(frame, "train.arithmetic")),
        ("Run", f"{' to '.join(when)} UTC" if when else ""),
        ("Training compute", f"{words.short(float(spent))} Gflops in all"),
        ("Versions", _versions(runs)),
    ]
    return [(term, value) for term, value in facts if value]


def _versions(runs: pd.DataFrame) -> str:
    """The tags that all runs share: commit, library versions, whatever the harness adds."""
    tags = [json.loads(text) for text in runs["tags"].dropna()]
    shared = set.intersection(*({(k, str(v)) for k, v in each.items()} for each in tags)) if tags else set()
    contract = (TAG_ID, TAG_KIND, TAG_SWEEP, TAG_PARENT, TAG_REASON)
    told = [(name.removeprefix("version."), value) for name, value in shared if name not in contract]
    return ", ".join(f"{name} {value}" for name, value in sorted(told) if len(value) <= 60)


def redraw(source: Path, sweep: str, folder: str | Path) -> Path:
    """The same from a runs.parquet, with the sample sheets that lie in `samples/` beside it."""
    if not source.is_file():
        raise pull.NoSuchSweep(f"--from: no file {source}")
    frame = pull.conform(pd.read_parquet(source))
    sheets = {path.stem: path for path in (source.parent / "samples").glob("*.png")}
    return compose(frame, sheets, sweep, Path(folder) / "reports" / sweep)


def _command() -> None:
    import typer

    def report(
        sweep: Annotated[str, typer.Option(help="Name of the sweep.")],
        out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs"),
        source: Annotated[Path | None, typer.Option("--from", help="A runs.parquet to draw from, not MLflow.")] = None,
    ) -> None:
        """Draw the report of a sweep from what MLflow holds."""
        uri = os.environ.get(TRACKING) or f"sqlite:///{(out / DATABASE).resolve()}"
        try:
            path = redraw(source, sweep, out) if source else write(uri, sweep, out)
        except ValueError as error:
            typer.echo(f"report: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{summary(pd.read_parquet(path.with_name('runs.parquet')))} Report: {path}")

    typer.run(report)


if __name__ == "__main__":
    _command()
