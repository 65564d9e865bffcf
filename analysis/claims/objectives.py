"""The claim about objectives: SiT (arXiv 2401.08740), at the compute of the paper's own models."""

import numpy as np
import pandas as pd

from analysis import frames, words
from analysis.claims.evidence import (
    DOES_NOT_HOLD,
    HOLDS,
    LEVEL,
    TOO_LITTLE,
    Finding,
    gather,
    judged_version,
    more,
    newest,
    noise,
)
from analysis.figures.objectives import ACROSS, NOISE, UNIFORM, WAY, against, compared

OBJECTIVE = "diffusion.objective"


def velocity(frame: pd.DataFrame) -> Finding | None:
    """`flow` with uniform times has a lower FID than `ddpm` at each shape with both, by more than seeds make.

    Each is sampled in its own way, so what is judged is objective and sampler together.
    """
    part = _both(frame)
    evidence = gather(part, apart=OBJECTIVE, besides=ACROSS)
    cells = compared(evidence.rows) if evidence else pd.DataFrame()
    pairs = against(cells) if len(cells) else []
    if not len(pairs):
        return None
    judged = cells[cells["objective"].isin((*UNIFORM, NOISE))]
    chance = noise(evidence.rows.merge(judged[[*frames.OBJECTIVE, *WAY]].drop_duplicates()))
    margins = [chance.margin(*seeds, len(pairs)) for seeds in pairs["seeds"]]
    gaps = list(zip(pairs["gap"], margins, strict=True))
    ahead = [gap < -margin for gap, margin in gaps]  # never, where it is NaN
    behind, lost = any(gap > margin for gap, margin in gaps), _lost(part, evidence.rows)
    verdict = DOES_NOT_HOLD if behind else HOLDS if all(ahead) and not lost else TOO_LITTLE
    closest = pairs.loc[pairs["gap"].idxmax()]
    gap, width = closest["gap"], chance.margin(*closest["seeds"])
    bounds = (
        f"{more(gap - width)} to {more(gap + width)} at {closest['name']} ({LEVEL:.0%}, seed noise)"
        if chance.known else "not known without seeds"
    )  # fmt: skip
    over = f"; {more(pairs['gap'].mean())} in the geometric mean" if len(pairs) > 1 else ""
    told = "; ".join(
        f"{row['name']}: {' against '.join(words.plain(round(fid, 1)) for fid in row['fids'])}"
        for _, row in pairs.iterrows()
    )
    about = f"{judged_version(frame, part)} {evidence.about}".strip()
    parts = (f"FID at {told}.", _sampled(judged), _others(cells), str(chance), about, lost)
    return Finding(
        f"linear velocity ahead of noise prediction at {sum(pairs['gap'] < 0)} of {len(pairs)} models; its FID is "
        f"{more(gap)} at the closest, {closest['name']}{over}",
        bounds, verdict, " ".join(filter(None, parts)),
    )  # fmt: skip


def _both(frame: pd.DataFrame) -> pd.DataFrame:
    """The part of the frame with most models that were trained both ways, of as many the newest; else no rows."""
    parts = [(len(against(compared(part))), newest(part), part) for part in frames.groups(frame, ACROSS) if len(part)]
    count, _, part = max(parts, key=lambda each: each[:2], default=(0, 0, None))
    return part if count else frame.iloc[:0]


def _lost(part: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Which models of the same recipe, trained one way or the other, diverged."""
    own = [name for name in frames.settings() if name in part and name not in (*frames.SHAPE, *ACROSS, *frames.APART)]
    runs = part[part["status"] == "DIVERGED"]
    either = [words.objective(row) in (*UNIFORM, NOISE) for _, row in runs.iterrows()]
    lost = runs[np.array(either, bool)].merge(rows[own].drop_duplicates(), on=own)
    return words.diverged(pd.concat([rows, lost])).strip() if len(lost) else ""


def _sampled(cells: pd.DataFrame) -> str:
    ways = {name: f"{words.sampler(sampler)} {steps} steps" for name, sampler, steps in
            cells[["objective", *WAY]].itertuples(index=False)}  # fmt: skip
    return f"Each in its own way: {', '.join(f'{name} by {way}' for name, way in ways.items())}."


def _others(cells: pd.DataFrame) -> str:
    """How other densities of times compare with uniform ones."""
    names = [name for name in cells["objective"].unique() if name.startswith("flow") and name not in UNIFORM]
    found = [(name, against(cells, one=(name,), other=UNIFORM)) for name in names]
    return " ".join(
        f"With {name.partition(', ')[2]} times FID is {more(pairs['gap'].mean())} than with uniform ones "
        f"(geometric mean of {len(pairs)})." for name, pairs in found if len(pairs)
    )  # fmt: skip
