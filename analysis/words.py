"""How numbers, settings and findings are put into words, for figures, captions and tables alike."""

import pandas as pd

from analysis import fit, frames
from harness.record import METRICS

GFLOPS = "Model Gflops (forward multiply-adds of one image, 10⁹)"
COMPUTE = "Training compute, Gflops (model Gflops × images × 3)"
IMAGES = "Images seen"


def short(number: float) -> str:
    """1500 -> `1.5k`, 102400000 -> `102M`."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def plain(value: float) -> str:
    """2142.15 -> `2,142`, 0.25 -> `0.25`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def the(frame: pd.DataFrame, field: str) -> str:
    """The one value of a setting, or its values; of many numbers the least and the greatest."""
    values = sorted(frame[field].dropna().unique()) if field in frame else []
    told = [plain(v) if isinstance(v, float) else str(v) for v in values]
    if len(values) > 3 and not isinstance(values[0], str):
        return f"{told[0]} to {told[-1]}"
    return ", ".join(told)


def fid_name(frame: pd.DataFrame) -> str:
    """`FID-1K (lite0)`: a FID is only itself with its sample count and its features."""
    samples = frame["evaluate.samples"].dropna()
    count = short(int(samples.iloc[0])).upper() if len(samples) else "?"
    return f"FID-{count} ({the(frame, 'evaluate.extractor')} features)"


def metric_name(frame: pd.DataFrame, metric: str) -> str:
    quantity = METRICS[metric]
    name = fid_name(frame) if metric == "fid" else quantity.label or metric
    return f"{name} {'↓' if quantity.better == 'lower' else '↑'}" if quantity.better else name


def sampler(name: str) -> str:
    return name.capitalize() if name in ("euler", "heun") else name.upper()


def objective(row: pd.Series) -> str:
    """`ddpm`, `flow`; where the density of training times is not the objective's own `flow, logit-normal(0, 1)`."""
    name, density, mean, std = (row[field] for field in frames.OBJECTIVE)
    shape = f"({mean:g}, {std:g})" if density == "logit-normal" else ""
    return name.split(":")[-1] if density == "own" else f"{name.split(':')[-1]}, {density}{shape}"


def objectives(frame: pd.DataFrame) -> list[str]:
    """Those of a frame, each once, in its order."""
    rows = frame[frame["diffusion.objective"].notna()].drop_duplicates(list(frames.OBJECTIVE))
    return list(dict.fromkeys(objective(row) for _, row in rows.iterrows()))


def evaluation(frame: pd.DataFrame, varied: tuple[str, ...] = ()) -> str:
    """How the models were measured: `lite0 features, 1,000 samples against 5,000 train images, DDIM 16 steps, ...`.

    varied: settings that are told elsewhere.
    """
    guidance = the(frame, "evaluate.guidance")
    samplers = ", ".join(map(sampler, sorted(frame["evaluate.sampler"].dropna().unique())))
    steps = f"{the(frame, 'evaluate.steps')} steps"
    parts = (
        f"{the(frame, 'evaluate.extractor')} features",
        f"{_thousands(the(frame, 'evaluate.samples'))} samples against "
        f"{_thousands(the(frame, 'evaluate.reference'))} {the(frame, 'evaluate.split')} images".replace("  ", " "),
        " ".join(
            text for field, text in (("sampler", samplers), ("steps", steps)) if f"evaluate.{field}" not in varied
        ),
        "" if "evaluate.guidance" in varied else "no guidance" if guidance == "1" else f"guidance {guidance}",
    )
    return ", ".join(filter(None, parts))


def recipe(frame: pd.DataFrame, varied: tuple[str, ...] = ()) -> str:
    """What the models were trained on: `fashion-mnist, 32,768 images of batch 32, lr 0.001, 1 seed`.

    The objective is said where it is not the paper's. varied: settings that are told elsewhere.
    """
    images = [int(value) for value in sorted(frame["train.images"].dropna().unique())]
    seeds, asked = frame["seed"].nunique(), objectives(frame)
    plain_one = asked in ([], ["ddpm"]) or "diffusion.objective" in varied
    parts = (
        the(frame, "data.dataset"),
        "" if plain_one else f"objective{'s' if len(asked) > 1 else ''} {' / '.join(asked)}",
        f"{' or '.join(f'{value:,}' for value in images)} images seen",
        f"batch {the(frame, 'train.batch')}",
        f"lr {the(frame, 'train.lr')}",
        f"{seeds} seed{'s' if seeds > 1 else ''}",
    )
    return ", ".join(filter(None, parts))


def subtitle(frame: pd.DataFrame, varied: tuple[str, ...] = ()) -> str:
    return f"{recipe(frame, varied)}  ·  {evaluation(frame, varied)}"


def interval(low: float, high: float, digits: int = 2) -> str:
    return "too few models for an interval" if low != low else f"95 % interval {low:.{digits}f} to {high:.{digits}f}"


def power(law: fit.PowerLaw) -> str:
    """`1,060 × Gflops^-0.17`."""
    return f"{plain(float(f'{10**law.a:.3g}'))} × Gflops^{law.b:.2f}"


def pairs(found: tuple[fit.Pair, ...]) -> str:
    """` Not so for 2x96/8 (2,142) and 3x128/8 (2,200).`: the pairs that go the other way; empty if none does."""
    wrong = [pair for pair in found if not pair.held]
    if not wrong:
        return ""
    texts = [
        f"{pair.larger} ({plain(round(pair.fid_larger, 1))}) is no better than "
        f"{pair.smaller} ({plain(round(pair.fid_smaller, 1))})"
        for pair in wrong
    ]
    return " Not so: " + "; ".join(texts[:6]) + (f"; and {len(texts) - 6} more." if len(texts) > 6 else ".")


def diverged(frame: pd.DataFrame) -> str:
    """` Diverged, so without a FID: 4x208/8 lr 0.004.`; empty if none did. Of several objectives it is said whose."""
    rows, several = frames.diverged(frame), len(objectives(frame)) > 1
    names = [
        " ".join(filter(None, (
            f"{row['model.size']}/{row['model.patch']}", objective(row) if several else "", row["recipe"],
        ))) for _, row in rows.iterrows()
    ]  # fmt: skip
    return f" Diverged, so without a FID: {', '.join(dict.fromkeys(names))}." if names else ""


def comparable(frame: pd.DataFrame) -> bool:
    """Whether the study measured what the paper measured, so that both may share an axis."""
    want = {
        "data.dataset": "imagenet-256-latents", "evaluate.extractor": "inception", "evaluate.samples": "50000",
        "evaluate.sampler": "ddpm", "evaluate.steps": "250", "evaluate.guidance": "1",
    }  # fmt: skip
    return all(the(frame, field) == value for field, value in want.items())


def _thousands(text: str) -> str:
    return f"{int(text):,}" if text.isdigit() else text
