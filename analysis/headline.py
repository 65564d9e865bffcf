"""The numbers that a section of the report opens with, and its power laws."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import fit, frames, paper, words
from analysis.figures import FIGURES, one_way
from analysis.words import plain


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


def numbers(frame: pd.DataFrame) -> list[Number]:
    """The numbers that come first; those that the study has enough models for."""
    cells = frames.cells(frame)
    out = []
    if FIGURES["fid_vs_gflops"].applies(frame):
        r, theirs = _correlation(cells), _correlation(paper.scaling())
        detail = f"over {r.n} models; {words.interval(r.low, r.high)}, bootstrap over models"
        out.append(Number(f"{r.r:.2f}", "Pearson correlation of log10 Gflops and FID", detail, f"{theirs.r:.2f}"))
    found, published = fit.neighbours(cells), fit.neighbours(paper.scaling())
    for about, pairs, theirs in (
        ("a larger model is better at the same patch", found.size, published.size),
        ("a smaller patch is better at the same size", found.patch, published.patch),
    ):
        if pairs and one_way(frame):
            detail = words.pairs(pairs).strip() or "every pair of neighbours"
            out.append(Number(fit.count(pairs), about, detail, fit.count(theirs)))
    if len(cells):
        best = cells.loc[cells["fid"].idxmin()]
        kind = f" {best['model.conditioning']}" if best["model.backbone"] == "dit" else ""
        real = frames.floor(frame)
        detail = f"{best['model.name']}{kind}, {best['model.gflops']:.3g} Gflops"
        detail += "" if np.isnan(real) else f"; real images: {plain(round(real, 1))}"
        out.append(Number(plain(round(best["fid"], 1)), f"lowest {words.fid_name(frame)}", detail, ""))
    return out


def laws(frame: pd.DataFrame) -> list[Law]:
    """FID = A x Gflops^b over all models and at each patch: one exponent may hide several."""
    if not FIGURES["fid_vs_gflops"].applies(frame):
        return []
    cells, theirs = frames.cells(frame), paper.scaling()
    rows = [Law("all models", _law(cells), _law(theirs))]
    for patch in frames.patches(cells):
        at, published = cells[cells["model.patch"] == patch], theirs[theirs["model.patch"] == patch]
        if len(at) >= 3:
            rows.append(Law(f"patch {patch}", _law(at), _law(published)))
    return rows


def _correlation(cells: pd.DataFrame) -> fit.Correlation:
    return fit.pearson(np.log10(cells["model.gflops"]), cells["fid"])


def _law(cells: pd.DataFrame) -> str:
    law = fit.power_law(cells["model.gflops"], cells["fid"])
    bounds = "" if np.isnan(law.b_low) else f" ({law.b_low:.2f} to {law.b_high:.2f})"
    return f"{words.power(law)}{bounds}, R² {law.r2:.2f}, n {law.n}"
