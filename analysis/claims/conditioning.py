"""Claims about conditioning types: the paper's sections 3.2 and 5, Figure 5."""

from itertools import combinations

import numpy as np
import pandas as pd

from analysis import frames, words
from analysis.claims import pairs
from analysis.claims.evidence import DOES_NOT_HOLD, HOLDS, LEVEL, TOO_LITTLE, Finding, Noise, gather, more

KIND, BEST, COSTLY = "model.conditioning", "adaLN-Zero", "cross-attention"
ORDER = (BEST, "adaLN", COSTLY, "in-context")  # from best to worst in Table 4
ALIKE = ("data.dataset", "model.mlp_ratio", "diffusion.objective", "version")  # what else Gflops hang on
ABOUT = (1.10, 1.20)  # what "about 15 % more" may mean: in the paper's own table it is 16 %


def best(frame: pd.DataFrame) -> Finding | None:
    """adaLN-Zero has a lower FID than each other type at the same shape, by more than seeds make."""
    evidence = gather(frame, apart=KIND)
    cells = _typed(evidence.cells) if evidence else pd.DataFrame()
    ordered = _gaps(cells) if len(cells) else []
    versus = [gap for gap in ordered if gap[1] == BEST]
    lost = words.diverged(_diverged(frame, evidence.rows)).strip() if evidence else ""
    if not versus:
        return Finding(f"{BEST} has no FID to compare", "none", TOO_LITTLE, lost) if BEST in lost else None
    noise = evidence.noise
    margins = [noise.margin(*seeds, len(versus)) for *_, seeds in versus]
    ahead = [gap < -margin for (*_, gap, _), margin in zip(versus, margins, strict=True)]  # never, where it is NaN
    behind = [gap > margin for (*_, gap, _), margin in zip(versus, margins, strict=True)]
    complete = {kind for _, _, kind, *_ in versus} == set(ORDER[1:])
    verdict = DOES_NOT_HOLD if any(behind) else HOLDS if complete and all(ahead) else TOO_LITTLE
    right = sum(gap < 0 for *_, gap, _ in versus)
    *_, kind, gap, seeds = max(versus, key=lambda each: each[3])
    width = noise.margin(*seeds)
    bounds = (
        "not known without seeds" if not noise.known
        else f"{more(gap - width)} to {more(gap + width)} against {kind} ({LEVEL:.0%}, seed noise)"
    )  # fmt: skip
    return Finding(
        f"adaLN-Zero ahead in {right} of {len(versus)} comparisons; its FID is {more(gap)} than the closest, {kind}",
        bounds, verdict, " ".join(filter(None, (_order(cells, ordered, noise), str(noise), evidence.about, lost))),
    )  # fmt: skip


def overhead(frame: pd.DataFrame) -> Finding | None:
    """Gflops of cross-attention over adaLN-Zero at the same shape, data and output: counted, so exact."""
    runs = frame[frame["model.gflops"].notna()].drop_duplicates([*frames.SHAPE, *ALIKE, KIND])
    ratios: dict[str, list[float]] = {}
    for _, group in runs.groupby([*frames.SHAPE, *ALIKE], sort=False, dropna=False):
        cost, first = group.set_index(KIND)["model.gflops"], group.iloc[0]
        if {BEST, COSTLY} <= set(cost.index):
            apart = f" on {first['data.dataset']}" if runs["data.dataset"].nunique() > 1 else ""
            ratios.setdefault(f"{pairs.name(first)}{apart}", []).append(cost[COSTLY] / cost[BEST])
    if not ratios:
        return None
    every = [ratio for found in ratios.values() for ratio in found]
    verdict = HOLDS if ABOUT[0] <= min(every) and max(every) <= ABOUT[1] else DOES_NOT_HOLD
    told = "; ".join(f"{name}: {_span(found)}" for name, found in ratios.items())
    limits = f"Taken for about 15 %: from {ABOUT[0] - 1:.0%} to {ABOUT[1] - 1:.0%}."
    return Finding(_span(every), "exact: counted, not measured", verdict, f"{told}. {limits}")


def _span(ratios: list[float]) -> str:
    low, high = f"{min(ratios) - 1:.1%}", f"{max(ratios) - 1:.1%}"
    return f"{low} more" if low == high else f"{low} to {high} more"


def _diverged(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` and those of diverged runs that differ from them in the type and the seed alone."""
    own = [name for name in (*frames.settings(), "version") if name in frame and name not in (KIND, *frames.APART)]
    lost = frame[frame["status"] == "DIVERGED"].merge(rows[own].drop_duplicates(), on=own)
    return pd.concat([rows, lost]) if len(lost) else rows


def _typed(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of shapes that were run with several types."""
    return cells[cells.groupby(list(frames.SHAPE))[KIND].transform("nunique") > 1]


def _gaps(cells: pd.DataFrame) -> list[tuple[str, str, str, float, tuple[int, int]]]:
    """(shape, type, a worse type by the paper, ln FID of the first less that of the second, seeds of each)."""
    out = []
    for _, group in cells.groupby(list(frames.SHAPE), sort=False):
        rows = {row[KIND]: row for _, row in group.iterrows()}
        for one, other in combinations([kind for kind in ORDER if kind in rows], 2):
            gap = float(np.log(rows[one]["fid"] / rows[other]["fid"]))
            seeds = (int(rows[one]["seeds"]), int(rows[other]["seeds"]))
            out.append((pairs.name(group.iloc[0]), one, other, gap, seeds))
    return out


def _order(cells: pd.DataFrame, ordered: list[tuple], noise: Noise) -> str:
    texts = [
        f"{name}: {' < '.join(group.sort_values('fid')[KIND])}"
        for name, group in cells.groupby(cells.apply(pairs.name, axis=1), sort=False)
    ]
    right = sum(gap < 0 for *_, gap, _ in ordered)
    against = sum(gap > noise.margin(*seeds, len(ordered)) for *_, gap, seeds in ordered)
    known = f", {against} against it beyond seed noise" if noise.known else ""
    return f"Order of FID at {'; '.join(texts)}; as in the paper in {right} of {len(ordered)} pairs{known}."
