"""The paper's claims put to the test on a study: headline numbers, power laws, and the table of all runs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import fit, frames, paper, words
from analysis.words import plain, short


@dataclass(frozen=True)
class Number:
    """A headline: the figure, what it is, and what the paper has."""

    value: str
    about: str
    detail: str
    paper: str


@dataclass(frozen=True)
class Law:
    """A power law of FID over Gflops, ours and the paper's, as printed."""

    part: str
    ours: str
    theirs: str


def headline(frame: pd.DataFrame) -> list[Number]:
    """The numbers that come first; those that the study has enough models for."""
    cells = frames.cells(frame)
    numbers = []
    if len(cells) >= 3 and cells["model.gflops"].nunique() > 2:
        r, theirs = _correlation(cells), _correlation(paper.scaling())
        detail = f"over {r.n} models; {words.interval(r.low, r.high)}, bootstrap over models"
        numbers.append(Number(f"{r.r:.2f}", "Pearson correlation of log10 Gflops and FID", detail, f"{theirs.r:.2f}"))
    found, published = fit.neighbours(cells), fit.neighbours(paper.scaling())
    for about, pairs, theirs in (
        ("a larger model is better at the same patch", found.size, published.size),
        ("a smaller patch is better at the same size", found.patch, published.patch),
    ):
        if pairs:
            detail = words.pairs(pairs).strip() or "every pair of neighbours"
            numbers.append(Number(fit.count(pairs), about, detail, fit.count(theirs)))
    if len(cells):
        best = cells.loc[cells["fid"].idxmin()]
        detail = f"{best['model.name']} {best['model.conditioning']}, {best['model.gflops']:.3g} Gflops"
        numbers.append(Number(plain(round(best["fid"], 1)), f"lowest {words.fid_name(frame)}", detail, ""))
    return numbers


def laws(frame: pd.DataFrame) -> list[Law]:
    """FID = A x Gflops^b over all models and at each patch: one exponent may hide several."""
    cells, theirs = frames.cells(frame), paper.scaling()
    if len(cells) < 3 or cells["model.gflops"].nunique() < 3:
        return []
    rows = [Law("all models", _law(cells), _law(theirs))]
    for patch in frames.patches(cells):
        at, published = cells[cells["model.patch"] == patch], theirs[theirs["model.patch"] == patch]
        if len(at) >= 3:
            rows.append(Law(f"patch {patch}", _law(at), _law(published)))
    return rows


# Column of the table -> (name of the frame, how it is printed).
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "Params (M)": ("model.params_m", lambda v: f"{v:.2f}" if v < 100 else f"{v:.0f}"),
    "Gflops": ("model.gflops", lambda v: f"{v:.4f}" if v < 1 else f"{v:.2f}"),
    "Train Gflops": ("train_gflops", short),
    "Images": ("images", lambda v: f"{v:,.0f}"),
    "FID ↓": ("fid", lambda v: f"{v:,.1f}"),
    "KID ↓": ("kid", lambda v: f"{v:.4g}"),
    "IS ↑": ("inception_score", lambda v: f"{v:.2f}"),
    "Prec. ↑": ("precision", lambda v: f"{v:.3f}"),
    "Recall ↑": ("recall", lambda v: f"{v:.3f}"),
    "Val. loss ↓": ("val_loss", lambda v: f"{v:.4f}"),
    "Loss ↓": ("loss", lambda v: f"{v:.4f}"),
    "Images/s": ("images_per_second", lambda v: f"{v:,.0f}"),
}


def table(frame: pd.DataFrame) -> list[dict]:
    """One row a run, in the order of the sweep: `name`, `status`, `failure`, `best` and the printed `values`.

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
             "best": bool(done and last["fid"] == best)}
        )  # fmt: skip
    return rows


def _correlation(cells: pd.DataFrame) -> fit.Correlation:
    return fit.pearson(np.log10(cells["model.gflops"]), cells["fid"])


def _law(cells: pd.DataFrame) -> str:
    law = fit.power_law(cells["model.gflops"], cells["fid"])
    bounds = "" if np.isnan(law.b_low) else f" ({law.b_low:.2f} to {law.b_high:.2f})"
    return f"{words.power(law)}{bounds}, R² {law.r2:.2f}, n {law.n}"
