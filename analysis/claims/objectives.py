"""The claim about objectives: SiT (arXiv 2401.08740), at the compute of the paper's own models."""

import pandas as pd

from analysis import frames, words
from analysis.claims.evidence import DOES_NOT_HOLD, HOLDS, LEVEL, TOO_LITTLE, Finding, gather, more, noise
from analysis.figures.objectives import ACROSS, NOISE, UNIFORM, WAY, against, compared

OBJECTIVE = "diffusion.objective"


def velocity(frame: pd.DataFrame) -> Finding | None:
    """`flow` with uniform times has a lower FID than `ddpm` at each shape with both, by more than seeds make.

    Each is sampled in its own way, so what is judged is objective and sampler together.
    """
    evidence = gather(_both(frame), apart=OBJECTIVE, besides=ACROSS)
    cells = compared(evidence.rows) if evidence else pd.DataFrame()
    pairs = against(cells) if len(cells) else []
    if not len(pairs):
        return None
    judged = cells[cells["objective"].isin((*UNIFORM, NOISE))]
    chance = noise(evidence.rows.merge(judged[[*frames.OBJECTIVE, *WAY]].drop_duplicates()))
    margins = [chance.margin(*seeds, len(pairs)) for seeds in pairs["seeds"]]
    gaps = list(zip(pairs["gap"], margins, strict=True))
    ahead = [gap < -margin for gap, margin in gaps]  # never, where it is NaN
    verdict = DOES_NOT_HOLD if any(gap > margin for gap, margin in gaps) else HOLDS if all(ahead) else TOO_LITTLE
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
    parts = (f"FID at {told}.", _sampled(judged), _others(cells), str(chance), evidence.about)
    return Finding(
        f"linear velocity ahead of noise prediction at {sum(pairs['gap'] < 0)} of {len(pairs)} models; its FID is "
        f"{more(gap)} at the closest, {closest['name']}{over}",
        bounds, verdict, " ".join(filter(None, parts)),
    )  # fmt: skip


def _both(frame: pd.DataFrame) -> pd.DataFrame:
    """The part of the frame with most models that were trained both ways; of as many the newest."""
    parts = [(_shared(part), part) for part in frames.groups(frame, ACROSS) if len(part)]
    order = [(count, part["version"].max() if part["version"].notna().any() else 0) for count, part in parts]
    best = max(range(len(parts)), key=order.__getitem__, default=None)
    return parts[best][1] if best is not None and parts[best][0] else frame.iloc[:0]


def _shared(part: pd.DataFrame) -> int:
    pairs = against(compared(part))
    return len(pairs)


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
