"""Numbers in, numbers out: correlation, power law, lower envelope, neighbouring cells. Draws nothing.

Intervals are bootstraps over models: a model is the unit that is resampled, never a checkpoint of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

ENOUGH = 5  # fewer models than this give no interval worth printing


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over n models, with a percentile bootstrap interval (NaN where there are too few models)."""

    r: float
    low: float
    high: float
    n: int
    level: float


@dataclass(frozen=True)
class PowerLaw:
    """log10 y = a + b log10 x by least squares, with a percentile bootstrap interval of b."""

    a: float
    b: float
    b_low: float
    b_high: float
    r2: float  # of log10 y
    n: int
    residuals: tuple[float, ...]  # y / fitted y - 1, in the order given; NaN where x or y was not positive

    def __call__(self, x: Sequence[float]) -> np.ndarray:
        """Fitted y at x."""
        return 10 ** (self.a + self.b * np.log10(np.asarray(x, float)))


@dataclass(frozen=True)
class Pair:
    """Two neighbouring cells; `held` if the one with more Gflops has the lower FID."""

    smaller: str
    larger: str
    fid_smaller: float
    fid_larger: float

    @property
    def held(self) -> bool:
        return self.fid_larger < self.fid_smaller


@dataclass(frozen=True)
class Neighbours:
    """The paper's two claims of section 5, pair by pair."""

    size: tuple[Pair, ...]  # same patch, the next size up: as deep and wide at least
    patch: tuple[Pair, ...]  # same size, the next smaller patch

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.size + self.patch

    @property
    def exceptions(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if not pair.held)


def count(pairs: Sequence[Pair]) -> str:
    """`8 of 9`: in how many pairs more Gflops gave the lower FID."""
    return f"{sum(pair.held for pair in pairs)} of {len(pairs)}"


def pearson(
    x: Sequence[float], y: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Correlation:
    """Pearson correlation of x and y, one value a model; pairs with a value that is not finite are left out."""
    x, y = _finite(x, y)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(np.nan, np.nan, np.nan, len(x), level)
    draws = _correlations(*_resampled(x, y, resamples, seed))
    low, high = _interval(draws, len(x), level)
    return Correlation(float(_correlations(x[None], y[None])[0]), low, high, len(x), level)


def power_law(
    x: Sequence[float], y: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PowerLaw:
    """Fit y = 10^a x^b to positive values, one a model."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    log_x, log_y = np.log10(x[good]), np.log10(y[good])
    if len(log_x) < 2 or np.ptp(log_x) == 0:
        return PowerLaw(np.nan, np.nan, np.nan, np.nan, np.nan, len(log_x), (np.nan,) * len(x))
    b = float(_slopes(log_x[None], log_y[None])[0])
    a = float(log_y.mean() - b * log_x.mean())
    residual = log_y - a - b * log_x
    spread = float(np.sum((log_y - log_y.mean()) ** 2))
    low, high = _interval(_slopes(*_resampled(log_x, log_y, resamples, seed)), len(log_x), level)
    residuals = np.full(len(x), np.nan)
    residuals[good] = 10**residual - 1
    r2 = 1 - float(np.sum(residual**2)) / spread if spread else np.nan
    return PowerLaw(a, b, low, high, r2, len(log_x), tuple(residuals.tolist()))


def envelope(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other one beats with at most as much x: the frontier of y over x, ordered by x."""
    x, y = _finite(x, y)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    best = np.minimum.accumulate(y)
    keep = np.concatenate(([True], best[1:] < best[:-1])) if len(y) else np.zeros(0, bool)
    return x[keep], y[keep]


def neighbours(cells: pd.DataFrame) -> Neighbours:
    """Every pair of neighbouring transformers with a FID. `cells`: one row each, with shape, model.gflops and fid.

    Cells are compared only within one `recipe` (conditioning type, learning rate, ...), where there is that column.
    """
    known = cells[cells["fid"].notna()]
    if "model.backbone" in known:
        known = known[known["model.backbone"] == "dit"]
    groups = [group for _, group in known.groupby("recipe", sort=False)] if "recipe" in known else [known]
    return Neighbours(*(
        tuple(_pair(*pair) for group in groups for pair in adjacent(group, along)) for along in ("size", "patch")
    ))  # fmt: skip


def adjacent(cells: pd.DataFrame, along: str) -> list[tuple[pd.Series, pd.Series]]:
    """(one, next) rows with nothing between them: along "size" at one patch, along "patch" at one size.

    A size is larger than another if it is at least as deep and as wide, and costs more: off the ladder, 2x192 and 4x96
    are not ordered. Pairs come patch by patch (largest first) or size by size, by the Gflops of their first.
    """
    group = ["model.patch"] if along == "size" else ["model.depth", "model.width", "model.heads"]
    rows = cells.sort_values([*group, "model.gflops"], ascending=[along != "size"] * len(group) + [True], kind="stable")
    depth, width, heads, patch, gflops = (
        rows[f"model.{name}"].to_numpy(float) for name in ("depth", "width", "heads", "patch", "gflops")
    )
    if along == "patch":
        above = _equal(depth) & _equal(width) & _equal(heads) & (patch[None] < patch[:, None])
    else:
        grown = (depth[None] >= depth[:, None]) & (width[None] >= width[:, None])
        above = grown & _equal(patch) & (gflops[None] > 1.01 * gflops[:, None])  # heads alone cost nothing
    between = above.astype(float) @ above.astype(float) > 0
    return [(rows.iloc[one], rows.iloc[other]) for one, other in np.argwhere(above & ~between)]


def _equal(values: np.ndarray) -> np.ndarray:
    return values[None] == values[:, None]


def _pair(smaller: pd.Series, larger: pd.Series) -> Pair:
    names = [f"{row['model.size']}/{row['model.patch']} {row.get('recipe', '')}".strip() for row in (smaller, larger)]
    return Pair(*names, float(smaller["fid"]), float(larger["fid"]))


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _resampled(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(resamples, n) draws of the models, with replacement; draws of fewer than three different x are left out."""
    index = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    enough = (np.diff(np.sort(x[index], axis=1), axis=1) > 0).sum(1) >= 2  # a line fits any two points
    return x[index[enough]], y[index[enough]]


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each row; NaN where one of the two is constant."""
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (dx * dy).sum(1) / np.sqrt((dx**2).sum(1) * (dy**2).sum(1))


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of each row."""
    dx = x - x.mean(1, keepdims=True)
    return (dx * (y - y.mean(1, keepdims=True))).sum(1) / (dx**2).sum(1)


def _interval(draws: np.ndarray, n: int, level: float) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]
    if n < ENOUGH or not len(draws):
        return np.nan, np.nan
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
