"""One shape trained in several ways: learning rates, noise schedules, seeds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, words
from analysis.figures import style
from analysis.figures.curves import band

RATE, SCHEDULE = "train.lr", "diffusion.schedule"


def learning_rate(frame: pd.DataFrame) -> Figure:
    """FID against learning rate, a line a model; a ring around each model's best."""
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
        panel.set(xlabel="Learning rate", ylabel=words.metric_name(frame, "fid"))
        style.log_axis(panel.xaxis, lambda value: f"{value:.3g}")
        style.log_axis(panel.yaxis)
        low, high = panel.get_xlim()
        panel.set_xlim(low, high * (high / low) ** 0.15)
        style.settle(figure)
        style.end_labels(panel, ends)
    return figure


def caption_learning_rate(frame: pd.DataFrame) -> str:
    best = best_rates(frame)
    texts = [f"{_shape(row)} at {row[RATE]:g}" for _, row in best.iterrows()]
    one = best[RATE].nunique() == 1
    return f"The paper trained every model at 1e-4. Here each is best at: {', '.join(texts)}. " + (
        "One rate suits them all." if one else "No one rate suits them all, so a curve at one rate flatters some."
    )


def best_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """The row of `frames.cells` with the lowest FID for each shape, smallest model first."""
    cells = frames.cells(frame)
    return cells.loc[cells.groupby(list(frames.SHAPE), sort=False)["fid"].idxmin()].sort_values("model.gflops")


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
        style.settle(figure)
        style.end_labels(panel, ends)
    return figure


def caption_schedules(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame).sort_values("fid")
    order = [f"{row[SCHEDULE]} {words.plain(round(row['fid'], 1))}" for _, row in cells.iterrows()]
    return (
        f"The paper uses the linear schedule alone. Here, from best to worst, {', '.join(order)}. FID compares the "
        "schedules; their losses do not compare, since each asks about other noise levels."
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
        panel.set_yticks(range(len(cells)), [_shape(cell.iloc[0]) for _, cell in cells])
        panel.set_ylim(len(cells) - 0.4, -0.6)
        panel.set(xlabel=words.metric_name(frame, "fid"))
        panel.grid(False, axis="y")
    return style.settle(figure)


def caption_seeds(frame: pd.DataFrame) -> str:
    spread, cells, runs = noise(frame)
    return (
        f"The paper trained each model once. Here {runs} runs of {cells} models differ in their seed alone: one "
        f"standard deviation of FID between seeds is {spread:.1%} of it. Two single models closer than about "
        f"{2.8 * spread:.0%} are not told apart. Bars: runs; marks: means."
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


def _shape(row: pd.Series) -> str:
    return f"{row['model.size']}/{row['model.patch']}"
