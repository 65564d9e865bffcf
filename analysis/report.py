"""One self-contained page from what MLflow holds: the paper's claims, figures, tables of models and of all runs.

python -m analysis.report [--sweep sizes] [--out runs] [--from runs.parquet]: of one sweep, or of all of a store.
"""

import json
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Annotated

import pandas as pd

from analysis import claims, frames, pull, tables, words
from analysis.claims.evidence import with_noise
from analysis.sections import sections
from harness.record import TAG_DIVERGED, TAG_ID, TAG_KIND, TAG_PARENT, TAG_REASON, TAG_SWEEP, TAG_WEIGHTS

TRACKING = "MLFLOW_TRACKING_URI"  # environment variable of the tracking store
DATABASE = "mlflow.db"  # in the output folder, where no tracking store is named
STUDY = "study"  # folder of the report of all sweeps
COMMIT = "git_commit"  # tag of the commit that a run was made from, with a plus if the tree was changed

# The sweeps of the paper's study in the order in which a report of all shows them, and what each asks.
SWEEPS = {
    "sizes": "Four sizes at three patches: does FID fall with Gflops?",
    "patch": "One size at every patch: the same parameters, more Gflops.",
    "conditioning": "Four ways to tell the model the timestep and the class: which is best?",
    "seeds": "The same cells from several seeds: how much of a difference is chance?",
    "schedules": "Noise schedules: does the paper's suit this data?",
    "learning_rate": "Learning rate by size: is the scaling curve one of models, or of one rate that suits some?",
    "depth_width": "Depth against width: do Gflops alone decide, or their shape too?",
    "backbones": "A transformer and a U-Net at equal Gflops: what does the backbone decide?",
    "guidance": "Classifier-free guidance: what does a scale buy, and cost?",
    "sampling": "Sampling steps: can more sampling compute make up for less model compute?",
    "objectives": "What to predict, and on which path from image to noise: what does the objective decide?",
}


def write(tracking_uri: str, sweep: str, folder: str | Path) -> Path:
    """Pull a sweep and write `folder/reports/<sweep>/report.html`, its figures as PNG and SVG, and runs.parquet.

    Returns the page's path. Raises `pull.NoSuchSweep` if the store has no such sweep.
    """
    target = Path(folder) / "reports" / sweep
    frame = pull.pull(tracking_uri, sweep)
    return compose(frame, pull.samples(tracking_uri, frame, target / "samples"), sweep, target)


def write_study(tracking_uri: str, folder: str | Path) -> Path:
    """The same of all sweeps of the store together, in `folder/reports/study`. Raises `pull.NoSuchSweep`."""
    target = Path(folder) / "reports" / STUDY
    frame = pull.study(tracking_uri)
    return compose_study(frame, pull.samples(tracking_uri, frame, target / "samples"), target)


def compose(frame: pd.DataFrame, images: Mapping[str, Path], sweep: str, target: Path) -> Path:
    """The page of one sweep, from a frame that is already here. `images`: run id -> its sample sheet."""
    target.mkdir(parents=True, exist_ok=True)
    chapters = [{"name": "", "about": "", "summary": "", "sections": sections(with_noise(frame), images, target)}]
    return _page(frame, target, chapters, sweep, summary(frame))


def compose_study(frame: pd.DataFrame, images: Mapping[str, Path], target: Path) -> Path:
    """The page of all sweeps that hold runs of the frame (its column `sweeps`): a chapter each."""
    numbers, chapters = count(1), []
    names, told = pull.held_by(frame), with_noise(frame)
    for name in sorted(names, key=lambda name: list(SWEEPS).index(name) if name in SWEEPS else len(SWEEPS)):
        part, folder = pull.held(told, name), target / name
        folder.mkdir(parents=True, exist_ok=True)
        chapters.append({
            "name": name, "about": SWEEPS.get(name, ""), "summary": summary(part),
            "sections": sections(part, images, folder, numbers),
        })  # fmt: skip
    counted = summary(frame).replace(" runs:", f" runs in {len(names)} sweeps:")
    return _page(frame, target, chapters, "All sweeps", counted)


def _page(frame: pd.DataFrame, target: Path, chapters: list[dict], title: str, told: str) -> Path:
    """Write report.html, runs.parquet and claims.csv; returns the path of the page."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("analysis", ".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found = claims.judge(frame)
    asked = {claim.letter for claim in found}
    models, published, rows = tables.models(frame), tables.published(), tables.runs(frame)
    page = environment.get_template("report.html.j2").render(
        title=title, summary=told, nothing=not len(frames.finished(frame)), facts=_facts(frame), claims=found,
        verdicts={verdict: sum(claim.verdict == verdict for claim in found) for verdict in claims.VERDICTS},
        unasked=[each.text for letter, each in claims.CLAIMS.items() if letter not in asked],
        warning=mixed(frame), chapters=chapters, models=models, model_columns=tables.used(models, tables.MODELS),
        published=published, published_columns=tables.used(published, tables.MODELS), rows=rows,
        columns=tables.used(rows, tables.COLUMNS), several=len(chapters) > 1,
    )  # fmt: skip
    frame.to_parquet(target / "runs.parquet", index=False)
    claims.table(found).to_csv(target / "claims.csv", index=False)
    path = target / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def summary(frame: pd.DataFrame) -> str:
    """`12 runs: 11 finished, 1 failed`, or that nothing has finished yet."""
    states = frame.drop_duplicates("run_id")["status"].value_counts()
    counts = ", ".join(f"{count} {status.lower()}" for status, count in states.items())
    if not len(frame):
        return "Nothing has finished yet: no run has been started."
    if not len(frames.finished(frame)):
        return f"Nothing has finished yet: {counts}."
    return f"{int(states.sum())} run{'s' if states.sum() > 1 else ''}: {counts}."


def mixed(frame: pd.DataFrame) -> str:
    """The warning that a frame holds runs of several versions of the code; empty where it does not."""
    versions = [str(version) for version in sorted(frame["version"].dropna().unique())]
    if len(versions) < 2:
        return ""
    listed = f"{', '.join(versions[:-1])} and {versions[-1]}"
    return (
        f"These runs were made by versions {listed} of the code, which give different results: they are never drawn on "
        "one axis."
    )


def _facts(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, when, and with what: term and value."""
    runs = frame.drop_duplicates("run_id")
    trained = frame[~frame["tags"].fillna("").str.contains(f'"{TAG_WEIGHTS}"', regex=False)]
    spent = trained.groupby("run_id")["train_gflops"].max().sum()
    when = [f"{time:%d %B %Y %H:%M}" for time in (runs["started"].min(), runs["ended"].max()) if not pd.isna(time)]
    facts = [
        ("Training", words.recipe(frame)),
        ("Measured with", words.evaluation(frame)),
        ("Arithmetic", words.the(frame, "train.arithmetic")),
        ("Run", f"{' to '.join(when)} UTC" if when else ""),
        ("Code", _code(runs)),
        ("Training compute", f"{words.short(float(spent))} Gflops in all"),
        ("Versions", _versions(runs)),
    ]
    return [(term, value) for term, value in facts if value]


def _code(runs: pd.DataFrame) -> str:
    """`version 2: commit abc1234 (12 runs), def5678+ (3 runs)`: of the runs that were started."""
    told = []
    for version, part in runs[runs["version"].notna()].groupby("version"):
        commits = part["tags"].dropna().map(lambda text: json.loads(text).get(COMMIT)).dropna().map(_short)
        listed = [f"{commit} ({count} run{'s' * (count != 1)})" for commit, count in commits.value_counts().items()]
        told.append(f"version {version}{': commit ' if listed else ''}{', '.join(listed)}")
    return "; ".join(told)


def _short(commit: str) -> str:
    """`abc1234+`: the plus of a tree that was changed stays."""
    return commit[:7] + "+" * commit.endswith("+")


def _versions(runs: pd.DataFrame) -> str:
    """The tags that all runs share but the commit: library versions, whatever the harness adds."""
    tags = [json.loads(text) for text in runs["tags"].dropna()]
    shared = set.intersection(*({(k, str(v)) for k, v in each.items()} for each in tags)) if tags else set()
    contract = (TAG_DIVERGED, TAG_ID, TAG_KIND, TAG_SWEEP, TAG_PARENT, TAG_REASON, TAG_WEIGHTS, COMMIT)
    told = [(name.removeprefix("version."), value) for name, value in shared if name not in contract]
    return ", ".join(f"{name} {value}" for name, value in sorted(told) if len(value) <= 60)


def redraw(source: Path, sweep: str | None, folder: str | Path) -> Path:
    """The same from a runs.parquet, with the sample sheets that lie in `samples/` beside it; of all sweeps where None.

    A sweep that holds none of its runs is only the name of the page. Raises `pull.NoSuchSweep` if there is no file.
    """
    if not source.is_file():
        raise pull.NoSuchSweep(f"--from: no file {source}")
    frame = pull.conform(pd.read_parquet(source))
    sheets = {path.stem: path for path in (source.parent / "samples").glob("*.png")}
    target = Path(folder) / "reports" / (sweep or STUDY)
    if sweep is None:
        return compose_study(frame.assign(sweeps=frame["sweeps"].fillna(frame["sweep"])), sheets, target)
    own = pull.held(frame, sweep)
    return compose(own if len(own) else frame, sheets, sweep, target)


def _command() -> None:
    import typer

    def report(
        sweep: Annotated[str | None, typer.Option(help="Name of a sweep; all of the store without.")] = None,
        out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs"),
        source: Annotated[Path | None, typer.Option("--from", help="A runs.parquet to draw from, not MLflow.")] = None,
    ) -> None:
        """Draw the report of a sweep, or of all, from what MLflow holds."""
        uri = os.environ.get(TRACKING) or f"sqlite:///{(out / DATABASE).resolve()}"
        try:
            if source:
                path = redraw(source, sweep, out)
            else:
                path = write(uri, sweep, out) if sweep else write_study(uri, out)
        except ValueError as error:
            typer.echo(f"report: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{summary(pd.read_parquet(path.with_name('runs.parquet')))} Report: {path}")

    typer.run(report)


if __name__ == "__main__":
    _command()
