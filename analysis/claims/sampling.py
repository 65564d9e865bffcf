"""The claim about sampling compute: the paper's section 5, Figure 10."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd

from analysis import frames, words
from analysis.claims.evidence import (
    DOES_NOT_HOLD,
    HOLDS,
    TOO_LITTLE,
    Finding,
    bootstrap,
    gather,
    judged_version,
    newest,
)
from analysis.figures import settings

STEPS = "evaluate.steps"


def outspent(frame: pd.DataFrame) -> Finding | None:
    """Where the model with fewer Gflops spends more on sampling, the larger one has the lower FID all the same.

    By the paper's sampler, if it was varied.
    """
    found = ((_outspent(part), part) for part in _stepped(frame))
    finding, part = next((each for each in found if each[0]), (None, None))
    about = judged_version(frame, part) if finding else ""
    return replace(finding, detail=f"{finding.detail} {about}") if about else finding


def _outspent(part: pd.DataFrame) -> Finding | None:
    evidence = gather(part, besides=(STEPS,))
    if not evidence:
        return None
    cells = settings.sampled(evidence.rows)
    sampler = words.sampler(cells[settings.SAMPLER].iloc[0])
    models = [cell for _, cell in cells.groupby(list(frames.SHAPE), sort=False)]
    won, asked = np.zeros((2, len(models), len(models)))
    for one, other in combinations(range(len(models)), 2):
        won[one, other], asked[one, other] = settings.outspent(pd.concat([models[one], models[other]]))
    if not asked.sum():
        return None

    def shares(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.einsum("ri,ij,rj->r", drawn, won, drawn) / np.einsum("ri,ij,rj->r", drawn, asked, drawn)

    low, high = bootstrap(shares, len(models))
    verdict = TOO_LITTLE if np.isnan(low) else HOLDS if low > 0.5 else DOES_NOT_HOLD if high < 0.5 else TOO_LITTLE
    bounds = "too few models" if np.isnan(low) else f"{low:.0%} to {high:.0%} of pairs (bootstrap over models)"
    steps = ", ".join(f"{int(step):,}" for step in sorted(cells[STEPS].unique()))
    return Finding(
        f"the larger model is better in {int(won.sum()):,} of {int(asked.sum()):,} pairs in which it samples with less "
        f"compute ({won.sum() / asked.sum():.0%})",
        bounds, verdict, f"{len(models)} models at {steps} {sampler} steps. {evidence.about}".strip(),
    )  # fmt: skip


def _stepped(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The parts whose models were measured at several numbers of steps: by the paper's sampler first, then the largest.

    Of code that gives different results the newest comes first.
    """
    parts = [part for part in frames.groups(frame, (STEPS,)) if len(part) and _varied(part)]
    return sorted(parts, key=lambda part: (-newest(part), not (part[settings.SAMPLER] == settings.PAPERS).any()))


def _varied(part: pd.DataFrame) -> bool:
    return bool((frames.finished(part).groupby(list(frames.SHAPE))[STEPS].nunique() > 1).any())
