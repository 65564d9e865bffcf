"""What a test of a claim may rest on: runs that compare, the noise between seeds, and intervals that respect both."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis import fit, frames, words
from analysis.figures import recipes
from harness.config import SIZES

HOLDS, DOES_NOT_HOLD, TOO_LITTLE = "holds", "does not hold", "not enough evidence"
LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """A claim's test on some runs, in words."""

    statistic: str
    interval: str
    verdict: str
    detail: str


@dataclass(frozen=True)
class Noise:
    """Standard deviation of ln FID between seeds, pooled over `free` degrees of freedom; NaN where none repeat."""

    sd: float
    free: int

    @property
    def known(self) -> bool:
        return self.free > 0

    def margin(self, ones: int, others: int, comparisons: int = 1) -> float:
        """How far apart in ln FID the means of so many seeds are by chance, in any of so many comparisons (95 %).

        Student's t with Bonferroni's correction; NaN where the noise is not known.
        """
        if not self.known:
            return np.nan
        t = stats.t.ppf(1 - (1 - LEVEL) / 2 / max(comparisons, 1), self.free)
        return float(t * self.sd * np.sqrt(1 / ones + 1 / others))

    def __str__(self) -> str:
        if not self.known:
            return "No model was run from several seeds, so the noise of a single run is not known."
        return f"Seed noise: one sd is {self.sd:.1%} of FID ({self.free} degrees of freedom)."


@dataclass(frozen=True)
class Evidence:
    """Every row of the runs of one way of measuring and one recipe, a run a cell and seed; the seed noise there."""

    rows: pd.DataFrame
    noise: Noise
    about: str  # what else was finished and is not judged; empty where nothing

    @property
    def cells(self) -> pd.DataFrame:
        return frames.cells(self.rows)


def gather(frame: pd.DataFrame, apart: str | None = None, besides: tuple[str, ...] = ()) -> Evidence | None:
    """The largest part of a frame whose transformers compare; None where none has finished.

    Of recipes with equally many models the one with the lowest FID; of models the named sizes, if there are any: a
    lattice of shapes beside a ladder would outvote it. Of code that gives different results the newest counts, if as
    many models are of it, and likewise of objectives the paper's.
    apart: a setting that is not part of the recipe, since the claim is about it. besides: what may vary likewise, of
    `frames.COMPARABLE`.
    """
    found = [_part(group, apart) for group in frames.groups(_transformers(frame), besides)]
    best = max((each for each in found if each), key=_weight, default=None)
    return best and replace(best, about=f"{judged_version(frame, best.rows)} {best.about}".strip())


def noise(frame: pd.DataFrame) -> Noise:
    """The spread between seeds of runs, over all recipes and sizes together, and of each objective by itself.

    Each model is to be measured in one way only: a second way measures the same chance again.
    """
    once = _once(frame[frame["run_id"].isin(frames.finished(frame)["run_id"])])
    squares, free = 0.0, 0
    for part in frames.groups(once) if len(once) else []:
        if len(recipes.repeated(part)):
            spread, cells, runs = recipes.noise(part)
            squares, free = squares + spread**2 * (runs - cells), free + runs - cells
    return Noise(float(np.sqrt(squares / free)), free) if free else Noise(np.nan, 0)


def with_noise(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `fid_noise`: one standard deviation of ln FID between seeds, as it was measured; else NaN."""
    spread = pd.Series(np.nan, frame.index)
    for group in frames.groups(frame) if len(frame) else []:
        spread[frame["run_id"].isin(group["run_id"])] = noise(group).sd
    return frame.assign(fid_noise=spread)


def more(gap: float) -> str:
    """A difference of ln FID in words: `12.0% lower`."""
    change = np.expm1(gap)
    return f"{abs(change):.1%} {'higher' if change > 0 else 'lower'}"


def newest(rows: pd.DataFrame) -> int:
    """The newest version of the code that some runs were made by; 0 where none is known."""
    return 0 if rows["version"].isna().all() else int(rows["version"].max())


def judged_version(frame: pd.DataFrame, rows: pd.DataFrame) -> str:
    """`Judged on runs of version 2 of the code.`, where the frame has others too."""
    return f"Judged on runs of version {newest(rows)} of the code." if frame["version"].nunique() > 1 else ""


def share(held: int, asked: int) -> tuple[float, float]:
    """95 % interval of a share by the exact binomial (Clopper and Pearson), which is not 0 wide at 0 or 1."""
    found = stats.binomtest(held, asked).proportion_ci(LEVEL, "exact")
    return float(found.low), float(found.high)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], models: int, resamples: int = 10_000
) -> tuple[float, float]:
    """95 % percentile interval over models; NaN where there are too few.

    statistic: (resamples, models) counts of how often each model was drawn -> (resamples,) values.
    """
    if models < fit.ENOUGH:
        return np.nan, np.nan
    drawn = np.random.default_rng(0).multinomial(models, np.full(models, 1 / models), size=resamples)
    drawn = drawn[(drawn > 0).sum(1) >= 3]  # a line fits any two points
    values = statistic(drawn.astype(float))
    values = values[np.isfinite(values)]
    return tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()) if len(values) else (np.nan, np.nan)


def _transformers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["model.backbone"].fillna("dit") == "dit"]


def _part(group: pd.DataFrame, apart: str | None) -> Evidence | None:
    rows = frames.with_recipe(group.assign(**{apart: None}) if apart else group)
    if apart:
        rows = rows.assign(**{apart: group[apart]})
    runs = frames.finished(group)
    rows = _once(rows[rows["run_id"].isin(runs["run_id"])])
    if rows.empty:
        return None
    said, named = [], rows["model.size"].isin(SIZES)
    if named.any() and not named.all() and not apart:
        others = rows[~named].drop_duplicates(list(frames.SHAPE))
        said.append(f"{len(others)} models off the ladder of sizes are left out.")
        rows = rows[named]
    if (asked := words.objectives(rows)) != ["ddpm"] and len(asked) == 1:
        said.append(f"Judged with the objective {asked[0]}.")
    if rows["recipe"].nunique() > 1:
        found = _recipes(rows, apart)
        chosen, rivals = found.index[0], int((found["cells"] == found["cells"].iloc[0]).sum())
        said += [f"Judged at {chosen}, the best of {rivals} recipes with as many models."] if rivals > 1 else []
        rows = rows[rows["recipe"] == chosen]
    return Evidence(rows.drop(columns="recipe"), noise(group), " ".join(said))


def _recipes(rows: pd.DataFrame, apart: str | None) -> pd.DataFrame:
    """Each recipe's number of `cells` and mean ln FID (`fid`); most cells first, and then lowest FID."""
    ends = rows[rows["fid"].notna()].sort_values("images", kind="stable")
    cells = ends.drop_duplicates([*frames.SHAPE, "recipe", *([apart] if apart else [])], keep="last")
    grouped = np.log(cells["fid"]).groupby(cells["recipe"])
    found = pd.DataFrame({"cells": grouped.size(), "fid": grouped.mean()})
    return found.sort_values(["cells", "fid"], ascending=[False, True], kind="stable")


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """One run for each cell and seed, the one with most evaluations: another sweep may have measured it once more."""
    own = [name for name in frames.settings() if name in rows and name != "evaluate.points"]
    runs = rows.groupby("run_id", sort=False).first().assign(evaluations=rows.groupby("run_id")["fid"].count())
    kept = runs.sort_values("evaluations", ascending=False, kind="stable").drop_duplicates(own)
    return rows[rows["run_id"].isin(kept.index)]


def _weight(evidence: Evidence) -> tuple:
    """Most models first; then the newest code, the paper's objective, most evaluations, and the most thorough ones."""
    rows = evidence.rows
    models = len(rows.drop_duplicates([*frames.SHAPE, "model.conditioning"]))
    papers = bool((rows["diffusion.objective"] == "ddpm").any())
    thorough = (float(rows[name].max()) for name in ("evaluate.samples", "evaluate.steps"))
    return models, newest(rows), papers, int(rows["fid"].notna().sum()), *thorough
