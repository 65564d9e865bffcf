"""From rows of (run, images) to what a figure draws: finished cells, curves, settings that may share an axis."""

import pandas as pd

from harness.config import Trial
from harness.record import LOG_SNR, QUALITY

# Everything that changes what a FID means: two values of one of these never share an axis.
EVALUATION = (
    "data.dataset", "data.digest", "evaluate.extractor", "evaluate.split", "evaluate.samples", "evaluate.reference",
    "evaluate.manifold", "evaluate.sampler", "evaluate.steps", "evaluate.guidance", "evaluate.guidance_channels",
    "evaluate.val_images",
)  # fmt: skip
# What a network predicts, and at which noise levels it is trained: a law is of one of these.
OBJECTIVE = ("diffusion.objective", "diffusion.density", "diffusion.density_mean", "diffusion.density_std")
CODE = ("version", "diffusion.objective.version")  # of this project and of an objective of the user's own
COMPARABLE = (*EVALUATION, *OBJECTIVE, *CODE)  # what numbers have in common that share an axis
# A loss depends on the noise levels that it is asked at too, but not on how samples are made.
LOSS = ("data.dataset", "data.digest", "diffusion.schedule", "diffusion.timesteps", *OBJECTIVE, *CODE)
APART = ("seed", "evaluate.points")  # neither shape nor recipe nor a way to measure
SHAPE = ("model.backbone", "model.depth", "model.width", "model.heads", "model.patch")
LEVELS = tuple(f"{kind}_mse/{level}" for kind in ("noise", "image") for level in LOG_SNR)

BAD_ENDS = ("DIVERGED", "FAILED", "KILLED")


class MixedSettings(ValueError):
    """Numbers that do not compare were about to be drawn on one axis."""


def settings() -> dict[str, type]:
    """Every logged setting and its type: `{"model.depth": int, ..., "seed": int}`."""
    return _leaves(Trial)


def one_setting(frame: pd.DataFrame, fields: tuple[str, ...] = COMPARABLE) -> None:
    """Raises MixedSettings if the frame holds several values of a field that changes what its numbers mean."""
    for field in fields:
        values = sorted(map(str, frame[field].dropna().unique())) if field in frame else []
        if len(values) > 1:
            listed = ", ".join(values)
            raise MixedSettings(f"{field} takes {len(values)} values ({listed}): not to be drawn on one axis")


def groups(frame: pd.DataFrame, besides: tuple[str, ...] = ()) -> list[pd.DataFrame]:
    """The frame split into parts of one evaluation setting, objective and code each, largest first; runs stay whole.

    The fields in `besides` may still vary within a part.
    """
    fields = [field for field in COMPARABLE if field not in besides and field in frame and frame[field].nunique() > 1]
    parts = [part for _, part in frame.groupby(fields, dropna=False, sort=False)] if fields else [frame]
    return sorted(parts, key=lambda part: -part["run_id"].nunique())


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each finished run, one row a run, with the cell's `recipe`."""
    rows = with_recipe(frame)
    rows = rows[(rows["status"] == "FINISHED") & rows["fid"].notna()].sort_values("images", kind="stable")
    last = rows.groupby("run_id", sort=False).tail(1)
    return last.set_index("run_id").reindex(pd.unique(rows["run_id"])).reset_index()


def cells(frame: pd.DataFrame, apart: tuple[str, ...] = ()) -> pd.DataFrame:
    """One row a cell: the finished runs averaged over seeds, with `fid_low`, `fid_high` (their range) and `seeds`.

    apart: what tells cells apart besides shape and recipe, where a frame holds several of it.
    """
    runs = finished(frame)
    keys = [*SHAPE, "recipe", *apart]
    if runs.empty:
        return runs.assign(fid_low=[], fid_high=[], seeds=[])
    grouped = runs.groupby(keys, sort=False, dropna=False)
    out = grouped.first()
    averaged = [name for name in (*QUALITY, *LEVELS, "images_per_second") if name in runs]
    out[averaged] = grouped[averaged].mean()
    out["fid_low"], out["fid_high"], out["seeds"] = grouped["fid"].min(), grouped["fid"].max(), grouped.size()
    return out.reset_index().sort_values(["model.gflops", "model.patch"], kind="stable", ignore_index=True)


def curves(frame: pd.DataFrame, metric: str, x: str = "images") -> list[tuple[pd.Series, pd.DataFrame]]:
    """For each cell: its settings, and a frame of `x, mean, low, high` of the metric over its seeds, ordered by x.

    With one seed the three are equal. Smaller models come first. Runs that came to a bad end are left out: a mean over
    seeds would change where one of them stops.
    """
    rows = with_recipe(frame)
    rows = rows[rows[metric].notna() & rows[x].notna() & ~rows["status"].isin(BAD_ENDS)]
    out = []
    for _, cell in rows.groupby([*SHAPE, "recipe"], sort=False, dropna=False):
        values = cell.groupby(x)[metric].agg(["mean", "min", "max"]).reset_index().astype(float)
        values.columns = ["x", "mean", "low", "high"]
        out.append((cell.iloc[0], values))
    return sorted(out, key=lambda item: (_cost(item[0]), item[0]["model.patch"]))


def floor(frame: pd.DataFrame) -> float:
    """The FID of real images where it was measured, which is the same for all models of one setting; else NaN."""
    return float(frame["fid_floor"].median()) if "fid_floor" in frame else float("nan")


def diverged(frame: pd.DataFrame) -> pd.DataFrame:
    """One row for each run whose loss left the finite numbers, with the cell's `recipe`."""
    rows = with_recipe(frame)
    return rows[rows["status"] == "DIVERGED"].drop_duplicates("run_id")


def sizes(frame: pd.DataFrame) -> list[str]:
    """The sizes, smallest first: ordered by the Gflops they would have at equal patch (64 tokens)."""
    table = frame.drop_duplicates("model.size")
    return [row["model.size"] for row in sorted((row for _, row in table.iterrows()), key=_cost)]


def patches(frame: pd.DataFrame) -> list[int]:
    """The patch sizes, largest first, as the paper lists them."""
    return sorted(map(int, frame["model.patch"].dropna().unique()), reverse=True)


def with_recipe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `recipe`: what differs between cells of one shape, in words (`adaLN, lr 0.001`); else empty.

    A setting that only goes along with the shape (a learning rate for each width, say) is no recipe of its own.
    """
    told = (*settings(), "model.backbone.version")
    fields = [f for f in told if f in frame and f not in (*SHAPE, *EVALUATION, *OBJECTIVE, *APART)]
    runs = frame.drop_duplicates("run_id")
    shape = runs.groupby(list(SHAPE), dropna=False)
    differ = [field for field in fields if len(runs) and (shape[field].nunique(dropna=False) > 1).any()]
    if not differ:
        return frame.assign(recipe="")
    told = [[_word(field, value) for value in runs[field]] for field in differ]
    words = dict(zip(runs["run_id"], map(", ".join, zip(*told, strict=True)), strict=True))
    return frame.assign(recipe=frame["run_id"].map(words).astype("str"))


def _word(field: str, value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if field == "model.conditioning" else f"{field.split('.')[-1]} {text}"


def _cost(row: pd.Series) -> float:
    depth, width, tokens = int(row["model.depth"]), int(row["model.width"]), 64
    return depth * (12 * width**2 + 2 * tokens * width)


def _leaves(settings: type, prefix: str = "") -> dict[str, type]:
    out: dict[str, type] = {}
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if hasattr(kind, "model_fields"):
            out |= _leaves(kind, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = kind if isinstance(kind, type) else str  # Literal: one of some words
    return out
