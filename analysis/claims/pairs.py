"""Pairs of models that a claim orders: who is ahead at each stage of training, and by more than chance or not."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import fit, frames, words
from analysis.claims.evidence import DOES_NOT_HOLD, HOLDS, TOO_LITTLE, Evidence, Finding, Noise, share

MOST = 4  # exceptions that are told one by one


@dataclass(frozen=True)
class Stage:
    """Both models of a pair after the same number of images."""

    images: int
    gap: float  # ln FID of the one that should be better, less that of the other: negative if it is
    seeds: tuple[int, int]  # of each


@dataclass(frozen=True)
class Pair:
    """Two models; the claim says that `better` has the lower FID."""

    worse: str
    better: str
    stages: tuple[Stage, ...]  # in the order of training; never none

    @property
    def right(self) -> bool:
        """Over all stages together."""
        return float(np.mean([stage.gap for stage in self.stages])) < 0


def compared(evidence: Evidence, along: str) -> list[Pair]:
    """The neighbours (`fit.adjacent`) of finished models, at every number of images that both were evaluated at."""
    measured = _measured(evidence.rows)
    out = []
    for worse, better in fit.adjacent(evidence.cells, along):
        sides = measured[_key(worse)].add_suffix("_worse"), measured[_key(better)].add_suffix("_better")
        both = sides[0].join(sides[1], how="inner")
        stages = tuple(
            Stage(int(images), row.mean_better - row.mean_worse, (int(row.size_worse), int(row.size_better)))
            for images, row in both.sort_index().iterrows()
        )
        if stages:
            out.append(Pair(name(worse), name(better), stages))
    return out


def judged(pairs: list[Pair], evidence: Evidence, says: str) -> Finding:
    """The claim that the better one is ahead in every pair and at every stage given.

    It holds if a sign test over pairs says so and every exception is one that seeds alone often make, their noise being
    known from at least `fit.ENOUGH` degrees of freedom. It does not if some exception is larger than they make in any
    of so many comparisons, or if most pairs go the other way. says: `the larger is ahead`.
    """
    noise, right, asked = evidence.noise, sum(pair.right for pair in pairs), len(pairs)
    stages = [(pair, stage) for pair in pairs for stage in pair.stages]
    wrong = [(pair, stage) for pair, stage in stages if stage.gap >= 0]
    certain = [(p, s) for p, s in wrong if s.gap > noise.margin(*s.seeds, len(stages))]  # never, where it is NaN
    excused = noise.free >= fit.ENOUGH and all(s.gap <= noise.margin(*s.seeds) for _, s in wrong)
    low, high = share(right, asked)
    if certain or high < 0.5:
        verdict = DOES_NOT_HOLD
    elif low > 0.5 and (excused or not wrong):
        verdict = HOLDS
    else:
        verdict = TOO_LITTLE
    counted = f"{says} in {right} of {asked} neighbouring pairs"
    if len(stages) > asked:
        counted = (
            f"{says} in {len(stages) - len(wrong)} of {len(stages)} comparisons over training; over all stages "
            f"together in {right} of {asked} neighbouring pairs"
        )
    interval = f"{low:.0%} to {high:.0%} of pairs (sign test)"
    detail = f"{_exceptions(wrong, certain, noise)} {noise} {evidence.about}".strip()
    return Finding(counted, interval, verdict, detail)


def name(row: pd.Series) -> str:
    return f"{row['model.size']}/{row['model.patch']}"


def _exceptions(wrong: list[tuple[Pair, Stage]], certain: list[tuple[Pair, Stage]], noise: Noise) -> str:
    if not wrong:
        return "No exception."
    largest = sorted(wrong, key=lambda item: -item[1].gap)[:MOST]
    told = [
        f"{pair.better} after {words.short(stage.images)} images, {np.expm1(stage.gap):.0%} above {pair.worse}"
        for pair, stage in largest
    ]
    more = f" and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
    known = f"; {len(certain)} of them beyond seed noise" if noise.known else ""
    return f"{len(wrong)} the other way{known}: {'; '.join(told)}{more}."


def _measured(rows: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """Shape -> a frame over images of ln FID's `mean` over seeds and how many (`size`)."""
    known = rows[rows["fid"].notna()].assign(log=lambda part: np.log(part["fid"]))
    grouped = known.groupby([*frames.SHAPE], sort=False)
    return {tuple(key): part.groupby("images")["log"].agg(["mean", "size"]) for key, part in grouped}


def _key(cell: pd.Series) -> tuple:
    return tuple(cell[field] for field in frames.SHAPE)
