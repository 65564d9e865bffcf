"""The report's tables: every run, and the models beside the paper's own (its Tables 1 and 4)."""

from collections.abc import Callable, Iterable

import pandas as pd

from analysis import frames, paper, words
from analysis.claims.evidence import gather
from analysis.words import short

# Column of the table of runs -> (name of the frame, how it is printed).
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "Params (M)": ("model.params_m", lambda v: f"{v:.2f}" if v < 100 else f"{v:.0f}"),
    "Gflops": ("model.gflops", lambda v: f"{v:.4f}" if v < 1 else f"{v:.2f}"),
    "Train Gflops": ("train_gflops", short),
    "Images": ("images", lambda v: f"{v:,.0f}"),
    "FID ↓": ("fid", lambda v: f"{v:,.1f}"),
    "Real FID": ("fid_floor", lambda v: f"{v:,.1f}"),
    "sFID ↓": ("sfid", lambda v: f"{v:,.1f}"),
    "KID ↓": ("kid", lambda v: f"{v:.4g}"),
    "IS ↑": ("inception_score", lambda v: f"{v:.2f}"),
    "Prec. ↑": ("precision", lambda v: f"{v:.3f}"),
    "Recall ↑": ("recall", lambda v: f"{v:.3f}"),
    "Val. loss ↓": ("val_loss", lambda v: f"{v:.4f}"),
    "Diff. loss ↓": ("diffusion_loss", lambda v: f"{v:.3f}"),
    "Loss ↓": ("loss", lambda v: f"{v:.4f}" if v < 10 else short(v)),
    "Images/s": ("images_per_second", lambda v: f"{v:,.0f}"),
}


def runs(frame: pd.DataFrame) -> list[dict]:
    """One row a run, in the order of the sweep: `name`, `status`, `failure`, `sweeps`, `best` and the printed
    `values`.

    Each value is the last that the run logged; throughput is the median, which the first, compiling step cannot move.
    """
    rows = []
    best = frames.finished(frame)["fid"].min() if len(frames.groups(frame)) == 1 else None
    for _, run in frame.groupby("run_id", sort=False):
        last = run.ffill().iloc[-1].copy() if len(run) else run
        last["images_per_second"] = run["images_per_second"].median()
        values = {title: "" if pd.isna(last[name]) else form(last[name]) for title, (name, form) in COLUMNS.items()}
        failure = "" if pd.isna(last["failure"]) else last["failure"]
        done = last["status"] == "FINISHED"
        rows.append(
            {"name": last["name"], "status": last["status"].lower(), "failure": failure, "values": values,
             "sweeps": "" if pd.isna(last["sweeps"]) else last["sweeps"].replace(" ", ", "),
             "best": bool(done and last["fid"] == best)}
        )  # fmt: skip
    return rows


# Column of the table of models -> (name of the frame, how it is printed).
MODELS: dict[str, tuple[str, Callable[[float], str]]] = {
    "Layers": ("model.depth", "{:.0f}".format),
    "Width": ("model.width", "{:.0f}".format),
    "Heads": ("model.heads", "{:.0f}".format),
    "Conditioning": ("model.conditioning", str),
    "Params (M)": ("model.params_m", lambda v: f"{v:.2f}" if v < 10 else f"{v:.0f}"),
    "Gflops": ("model.gflops", lambda v: f"{v:.4f}" if v < 0.1 else f"{v:.3f}" if v < 1 else f"{v:.2f}"),
    "Images": ("images", short),
    "FID ↓": COLUMNS["FID ↓"],
    "Real FID": COLUMNS["Real FID"],
}


def models(frame: pd.DataFrame) -> list[dict]:
    """One row a finished model of the largest part that compares: `name` and the printed `values` of MODELS.

    An objective that is not the paper's is part of the name.
    """
    evidence = gather(frame, apart="model.conditioning")
    if not evidence:
        return []
    cells = evidence.cells
    asked = [words.objective(row) for _, row in cells.iterrows()]
    names = [name if of == "ddpm" else f"{name} {of}" for name, of in zip(cells["model.name"], asked, strict=True)]
    return _models(cells.assign(called=names), "called")


def published() -> list[dict]:
    """The same of the paper's 17 models."""
    return _models(paper.models(), "model")


def used(rows: list[dict], columns: Iterable[str]) -> list[str]:
    """The columns that some row has a value of."""
    return [title for title in columns if any(row["values"][title] for row in rows)]


def _models(cells: pd.DataFrame, name: str) -> list[dict]:
    return [
        {"name": row[name], "values": {title: "" if pd.isna(row.get(field)) else form(row[field])
                                       for title, (field, form) in MODELS.items()}}
        for _, row in cells.iterrows()
    ]  # fmt: skip
