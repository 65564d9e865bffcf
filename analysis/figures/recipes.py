"""One shape trained in several ways: learning rates, noise schedules, seeds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from analysis import frames, words
from analysis.figures import style
from analysis.figures.curves import band

RATE, SCHEDULE = "train.lr", "diffusion.schedule"


def learning_rate(frame: pd.DataFrame) -> Figure:
    """FID against learning rate, a line a model; a ring around each model's best, a cross where it diverged."""
    frames.one_setting(frame)
    cells, colours = frames.cells(frame), style.size_colours(frame)
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 4.4, "Learning rate by size", words.subtitle(frame))
        (panel,) = axes[0]
        ends = []
        for _, line in cells.groupby(list(frames.SHAPE), sort=False):
            line = line.sort_values(RATE)
            first, best = line.iloc[0], line.loc[line["fid"].idxmin()]
            colour = colours[first["model.size"]]
            panel.plot(line[RATE], line["fid"], color=colour, marker=style.marker(first["model.patch"]), mec="white")
            panel.scatter([best[RATE]], [best["fid"]], s=110, fc="none", ec=colour, lw=1.2, zorder=4)
            ends.append((line[RATE].iloc[-1], line["fid"].iloc[-1], _shape(first), colour))
        for _, rows in frames.diverged(frame).groupby(RATE):
            for place, (_, row) in enumerate(rows.iterrows()):
                colour, at = colours[row["model.size"]], (row[RATE], 0.96 - 0.06 * place)
                panel.plot(*at, "x", color=colour, ms=7, mew=1.8, transform=panel.get_xaxis_transform())
                panel.annotate(
                    f"{_shape(row)} diverged", at, (7, 0), panel.get_xaxis_transform(), textcoords="offset points",
                    va="center", color=colour, fontsize=7.5, fontweight="bold", annotation_clip=False,
                )  # fmt: skip
        panel.set(xlabel="Learning rate", ylabel=words.metric_name(frame, "fid"))
        style.log_axis(panel.xaxis, lambda value: f"{value:.3g}")
        panel.set_xticks(sorted(frame[RATE].dropna().unique()))
        style.log_axis(panel.yaxis)
        low, high = panel.get_xlim()
        panel.set_xlim(low, high * (high / low) ** 0.15)
        low, high = panel.get_ylim()
        panel.set_ylim(low, high * (high / low) ** (0.1 * len(frames.diverged(frame)) ** 0.5))  # room for the crosses
        style.floor(panel.yaxis, frames.floor(frame))
        style.settle(figure)
        style.end_labels(panel, ends)
    return figure


def caption_learning_rate(frame: pd.DataFrame) -> str:
    best, spread = best_rates(frame), _noise(frame)
    texts = [f"{_shape(row)} at {row[RATE]:g}" for _, row in best.iterrows()]
    suiting = sorted(set.intersection(*suitable_rates(frame, 0.0 if np.isnan(spread) else spread).values()))
    told = "by single runs, whose seed noise is not known" if np.isnan(spread) else "within seed noise"
    if suiting:
        verdict = f"One rate suits them all {told}: {' or '.join(f'{rate:g}' for rate in suiting)}."
    else:
        verdict = f"No one rate suits them all {told}, so a curve at one rate flatters some."
    return (
        f"The paper trained every model at 1e-4. Here each is best at: {', '.join(texts)}. {verdict}"
        f"{words.diverged(frame)}"
    )


def suitable_rates(frame: pd.DataFrame, spread: float) -> dict[tuple, set[float]]:
    """Shape -> the learning rates whose FID is no further above its best than seeds make two runs differ (95 %).

    spread: one standard deviation of ln FID between seeds.
    """
    out = {}
    for shape, line in frames.cells(frame).groupby(list(frames.SHAPE), sort=False):
        best = line.loc[line["fid"].idxmin()]
        margin = 1.96 * spread * np.sqrt(1 / line["seeds"].astype(float) + 1 / best["seeds"])
        out[shape] = set(line[RATE][np.log(line["fid"] / best["fid"]) <= margin])
    return out


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The row of `frames.cells` with the lowest FID for each shape, smallest model first."""
    cells = frames.cells(frame)
    return cells.loc[cells.groupby(list(frames.SHAPE), sort=False)["fid"].idxmin()].sort_values("model.gflops")


def has_rates(frame: pd.DataFrame) -> bool:
    """Some shape came to its end, whichever, at three learning rates, and the frame to some FID."""
    ended = frame[(frame["status"] == "DIVERGED") | ((frame["status"] == "FINISHED") & frame["fid"].notna())]
    return len(frames.cells(frame)) > 0 and bool((ended.groupby(list(frames.SHAPE))[RATE].nunique() >= 3).any())


def schedules(frame: pd.DataFrame) -> Figure:
    """FID over training under each noise schedule."""
    frames.one_setting(frame)
    lines = frames.curves(frame, "fid")
    colours = dict(zip(sorted(frame[SCHEDULE].dropna().unique()), style.CATEGORIES, strict=False))
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 4.2, "Noise schedules", words.subtitle(frame))
        (panel,) = axes[0]
        ends = []
        shapes = frame.drop_duplicates(list(frames.SHAPE))
        for cell, line in lines:
            colour = colours[cell[SCHEDULE]]
            band(panel, line, color=colour, marker=style.marker(cell["model.patch"]), mec="white")
            label = cell[SCHEDULE] if len(shapes) == 1 else f"{_shape(cell)} {cell[SCHEDULE]}"
            ends.append((line["x"].iloc[-1], line["mean"].iloc[-1], label, colour))
        panel.set(xlabel=words.IMAGES, ylabel=words.metric_name(frame, "fid"))
        panel.set_xlim(0, float(frame.loc[frame["fid"].notna(), "images"].max()) * 1.3)
        style.images_axis(panel)
        style.log_axis(panel.yaxis)
        style.floor(panel.yaxis, frames.floor(frame))
        style.settle(figure)
        style.end_labels(panel, ends)
    return figure


def caption_schedules(frame: pd.DataFrame) -> str:
    texts = []
    cells = frames.cells(frame)
    for _, group in cells.groupby(list(frames.SHAPE), sort=False):
        order = [
            f"{row['recipe']} {words.plain(round(row['fid'], 1))}" for _, row in group.sort_values("fid").iterrows()
        ]
        texts.append(f"{_shape(group.iloc[0])}: {', '.join(order)}")
    return (
        f"The paper uses the linear schedule alone. Here, from best to worst, {'; '.join(texts)}. FID compares the "
        f"schedules; their losses do not compare, since each asks about other noise levels.{words.diverged(frame)}"
    )


def seeds(frame: pd.DataFrame) -> Figure:
    """Every seed's FID for each cell, around the cell's mean."""
    frames.one_setting(frame)
    runs, colours = repeated(frame), style.size_colours(frame)
    cells = list(runs.groupby([*frames.SHAPE, "recipe"], sort=False, dropna=False))
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 0.55 * len(cells) + 1.7, "Spread over seeds", words.subtitle(frame))
        (panel,) = axes[0]
        for place, (_, cell) in enumerate(cells):
            colour = colours[cell["model.size"].iloc[0]]
            panel.plot(cell["fid"], [place] * len(cell), "|", color=colour, ms=16, mew=1.6)
            panel.plot(cell["fid"].mean(), place, style.marker(cell["model.patch"].iloc[0]), color=colour, mec="white")
        panel.set_yticks(
            range(len(cells)), [f"{_shape(cell.iloc[0])} {cell['recipe'].iloc[0]}".strip() for _, cell in cells]
        )
        panel.set_ylim(len(cells) - 0.4, -0.6)
        panel.set(xlabel=words.metric_name(frame, "fid"))
        panel.grid(False, axis="y")
        style.floor(panel.xaxis, frames.floor(frame))
    return style.settle(figure)


def caption_seeds(frame: pd.DataFrame) -> str:
    spread, cells, runs = noise(frame)
    apart = stats.t.ppf(0.975, runs - cells) * np.sqrt(2) * spread  # ln FID
    return (
        f"The paper trained each model once. Here {runs} runs of {cells} models differ in their seed alone: one "
        f"standard deviation of FID between seeds is {spread:.1%} of it. Two single models closer than about "
        f"{np.expm1(apart):.0%} are not told apart (95 %, Student's t). Bars: runs; marks: means."
    )


def noise(frame: pd.DataFrame) -> tuple[float, int, int]:
    """Standard deviation of ln FID between seeds, pooled over cells that have several; how many cells and runs."""
    runs = repeated(frame)
    logs = np.log(runs["fid"])
    groups = logs.groupby([runs[key].astype(str) for key in (*frames.SHAPE, "recipe")])
    free = len(runs) - groups.ngroups
    return float(np.sqrt(((logs - groups.transform("mean")) ** 2).sum() / free)), groups.ngroups, len(runs)


def repeated(frame: pd.DataFrame) -> pd.DataFrame:
    """The last evaluations of the cells that were run from several seeds."""
    runs = frames.finished(frame)
    keys = [*frames.SHAPE, "recipe"]
    return runs[runs.groupby(keys, dropna=False)["seed"].transform("nunique") > 1]


def _noise(frame: pd.DataFrame) -> float:
    """One standard deviation of ln FID between seeds, from these runs or, as told by `fid_noise`, from others."""
    return float(frame["fid_noise"].iloc[0]) if "fid_noise" in frame else np.nan


def _shape(row: pd.Series) -> str:
    return f"{row['model.size']}/{row['model.patch']}"
