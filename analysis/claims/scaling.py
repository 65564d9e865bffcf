"""Claims about size, patch and compute: the paper's section 5, Figures 6, 8 and 9."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import fit, frames, words
from analysis.claims import pairs
from analysis.claims.evidence import DOES_NOT_HOLD, HOLDS, TOO_LITTLE, Finding, bootstrap, gather, share

STRONG = -0.7  # correlations below this are called strong
SIZE = ["model.depth", "model.width", "model.heads"]
AHEAD = np.log(10)  # a gap that closes within ten times the compute may still close


def larger(frame: pd.DataFrame) -> Finding | None:
    """At one patch the next size up has the lower FID whenever both were evaluated."""
    evidence = gather(frame)
    found = pairs.compared(evidence, "size") if evidence else []
    if not found:
        return None
    finding = pairs.judged(found, evidence, "the larger is ahead")
    if max(len(pair.stages) for pair in found) < 2 and finding.verdict == HOLDS:
        detail = f"Evaluated only once, so nothing is known of earlier stages. {finding.detail}"
        return replace(finding, verdict=TOO_LITTLE, detail=detail)
    return finding


def finer(frame: pd.DataFrame) -> Finding | None:
    """At one size the next smaller patch ends with the lower FID."""
    evidence = gather(frame)
    found = pairs.compared(evidence, "patch") if evidence else []
    ends = [replace(pair, stages=pair.stages[-1:]) for pair in found]
    return pairs.judged(ends, evidence, "the smaller patch is ahead") if ends else None


def correlated(frame: pd.DataFrame) -> Finding | None:
    """Pearson's r of log10 Gflops and FID, and R2 of log FID on log Gflops against that on log parameters."""
    evidence = gather(frame)
    cells = evidence.cells if evidence else pd.DataFrame()
    if len(cells) < 3 or cells["model.gflops"].nunique() < 3:
        return None
    gflops, params = (np.log10(cells[name].to_numpy(float)) for name in ("model.gflops", "model.params_m"))
    fid = cells["fid"].to_numpy(float)
    r = fit.pearson(gflops, fid)

    def gain(drawn: np.ndarray) -> np.ndarray:
        return _r2(gflops, np.log(fid), drawn) - _r2(params, np.log(fid), drawn)

    low, high = bootstrap(gain, len(cells))
    one = np.ones((1, len(cells)))
    alone, compute = float(_r2(params, np.log(fid), one)[0]), float(_r2(gflops, np.log(fid), one)[0])
    apart = bool((cells.groupby(SIZE)["model.patch"].nunique() > 1).any())  # else one is a function of the other
    if np.isnan(r.low) or np.isnan(low):
        verdict = TOO_LITTLE
    elif r.high < STRONG and low > 0 and apart:
        verdict = HOLDS
    elif r.low > STRONG or (high < 0 and apart):
        verdict = DOES_NOT_HOLD
    else:
        verdict = TOO_LITTLE
    bounds = f"r {r.low:.2f} to {r.high:.2f}; R² gained {low:.2f} to {high:.2f} (bootstrap over models)"
    explained = f"R² of log FID {compute:.2f} on log Gflops, {alone:.2f} on log parameters"
    return Finding(
        f"Pearson r = {r.r:.2f} over {r.n} models; {explained}", "too few models" if np.isnan(low) else bounds,
        verdict, f"{_at_equal_parameters(cells)} {evidence.about}".strip(),
    )  # fmt: skip


def efficient(frame: pd.DataFrame) -> Finding | None:
    """At the largest training compute that two neighbours both reach, the one with more Gflops has the lower FID.

    Between evaluations FID is read off straight lines in log-log axes. A smaller model that is ahead there counts
    against the claim only where its lead would not be gone within ten times the compute at the rate it shrinks, by more
    than the seed noise of both ends of that line: the claim is about what happens eventually. Such a line multiplies
    that noise, so where no noise is known none counts against.
    """
    evidence = gather(frame)
    if not evidence:
        return None
    curves = {
        tuple(cell[field] for field in frames.SHAPE): (np.log(line["x"]), np.log(line["mean"]))
        for cell, line in frames.curves(evidence.rows, "fid", "train_gflops")
    }
    neighbours = [pair for along in ("size", "patch") for pair in fit.adjacent(evidence.cells, along)]
    gaps = []
    for small, large in neighbours:
        lines = [curves.get(tuple(cell[field] for field in frames.SHAPE)) for cell in (small, large)]
        if all(line is not None for line in lines) and lines[1][0].iloc[0] <= lines[0][0].iloc[-1]:
            gaps.append(Lead(pairs.name(small), pairs.name(large), *_gap(*lines),
                             evidence.noise.margin(int(small["seeds"]), int(large["seeds"]))))  # fmt: skip
    if not gaps:
        return None
    ahead, behind = [gap for gap in gaps if gap.ahead], [gap for gap in gaps if gap.behind]
    undecided = len(gaps) - len(ahead) - len(behind)
    decided = len(ahead) + len(behind)
    low, high = share(len(ahead), decided) if decided else (0.0, 1.0)
    bounds = f"{low:.0%} to {high:.0%} of {decided} decided pairs (sign test)" if decided else "no pair is decided"
    verdict = HOLDS if low > 0.5 else DOES_NOT_HOLD if high < 0.5 else TOO_LITTLE
    told = ", ".join(f"{gap.large} over {gap.small}" for gap in ahead[: pairs.MOST]) or "none"
    more = f" and {len(ahead) - pairs.MOST} more" if len(ahead) > pairs.MOST else ""
    first = sum(gap.end < 0 for gap in gaps)
    unsure = "is within seed noise" if evidence.noise.known else "may, for all that is known of its noise"
    detail = (
        f"Ahead: {told}{more}. In {len(behind)} pair{'s' * (len(behind) != 1)} the smaller model keeps a lead that ten "
        f"times the compute would not close; {undecided} are undecided: the lead shrinks, or {unsure}."
        " Evaluations of one run: at equal compute the small model is at its end and the large one early in its run."
        f" {evidence.noise} {evidence.about}"
    ).strip()
    return Finding(
        f"the larger is ahead in {first} of {len(gaps)} neighbouring pairs at the largest compute both reach",
        bounds, verdict, detail,
    )  # fmt: skip


@dataclass(frozen=True)
class Lead:
    """ln FID of the larger of two models less that of the smaller, over the training compute that both reach."""

    small: str
    large: str
    start: float  # at the least of that compute
    end: float  # at the most of it
    span: float  # between them, ln compute
    margin: float  # what one of these may be by chance; NaN where that is not known

    @property
    def ahead(self) -> bool:
        """Measured, and so told without noise too, as in every comparison of two models."""
        return self.end < 0 and not -self.end <= self.margin

    @property
    def behind(self) -> bool:
        """Now, and after ten times the compute on a straight line through both ends, each as uncertain as the other."""
        if np.isnan(self.margin) or self.end <= self.margin or self.span <= 0:
            return False
        further = AHEAD / self.span
        later = (1 + further) * self.end - further * self.start
        return later > self.margin * np.hypot(1 + further, further)


def _gap(small: tuple[pd.Series, pd.Series], large: tuple[pd.Series, pd.Series]) -> tuple[float, float, float]:
    """`start`, `end` and `span` of a Lead, from (ln compute, ln FID) of each."""
    start, end = max(small[0].iloc[0], large[0].iloc[0]), min(small[0].iloc[-1], large[0].iloc[-1])
    first, last = (float(np.interp(x, *large) - np.interp(x, *small)) for x in (start, end))
    return first, last, float(end - start)


def _r2(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """R2 of the least-squares line of y on x under each row of weights; NaN where x or y does not vary."""
    weights = weights / weights.sum(1, keepdims=True)
    dx, dy = (values - (weights @ values)[:, None] for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights * dx * dy).sum(1) ** 2 / ((weights * dx**2).sum(1) * (weights * dy**2).sum(1))


def _at_equal_parameters(cells: pd.DataFrame) -> str:
    """The largest spread of FID between patches of one size."""
    spreads = [
        (ratio, group)
        for _, group in cells.groupby(SIZE)
        if len(group) > 1 and (ratio := group["fid"].max() / group["fid"].min()) > 1
    ]
    if not spreads:
        return "Every size was run at one patch alone, so parameters and Gflops are not told apart."
    _, group = max(spreads, key=lambda item: item[0])
    first, last = (group.loc[group["model.gflops"].agg(which)] for which in ("idxmin", "idxmax"))
    fids = [words.plain(round(row["fid"], 1)) for row in (first, last)]
    return (
        f"At about {last['model.params_m']:.3g}M parameters FID goes from {fids[0]} ({pairs.name(first)}) to {fids[1]} "
        f"({pairs.name(last)})."
    )
