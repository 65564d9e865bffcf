"""Quality against compute: the paper's Figures 8, 9 and 12."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis import fit, frames, paper, words
from analysis.figures import style
from harness.record import METRICS, QUALITY

_APART = "The two panels measure different images with different features: only their shapes compare."


def fid_vs_gflops(frame: pd.DataFrame) -> Figure:
    """Figure 8: FID of every finished model against its Gflops; beside it the paper's own twelve."""
    frames.one_setting(frame)
    ours, theirs = frames.cells(frame), paper.scaling()
    with style.theme():
        figure, axes = style.canvas(
            1, 2, 10.4, 4.5, "FID against model Gflops", words.subtitle(frame), gridspec_kw={"width_ratios": [1.35, 1]}
        )
        here, there = axes[0]
        labels = _scaling(here, ours, style.size_colours(frame))
        style.floor(here.yaxis, frames.floor(frame))
        if words.comparable(frame):
            here.scatter(theirs["model.gflops"], theirs["fid"], s=60, c="none", ec=style.PAPER, lw=0.8, zorder=2)
        here.set(title="This study", xlabel=words.GFLOPS, ylabel=words.metric_name(frame, "fid"))
        faint = _scaling(there, theirs, dict.fromkeys(theirs["model.size"], style.MUTED))
        there.set(title="The paper: Table 4, Figure 8", xlabel=words.GFLOPS, ylabel="FID-50K (inception features) ↓")
        if len(labels) > style.MOST_LABELS:
            style.legend(figure, here, frame)
        style.settle(figure)
        style.point_labels(here, labels)
        style.point_labels(there, faint, size=6.5)
    return figure


def caption_fid_vs_gflops(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame)
    x, y = cells["model.gflops"], cells["fid"]
    r, law = fit.pearson(np.log10(x), y), fit.power_law(x, y)
    sign = "about as strongly" if r.r <= -0.9 else "less strongly" if r.r <= -0.5 else "hardly, if at all"
    return (
        f"The paper finds a Pearson correlation of {paper.PEARSON} between log10 Gflops and FID over twelve models. "
        f"Here: {r.r:.2f} over {r.n} ({words.interval(r.low, r.high)}, bootstrap over models), {sign}. "
        f"Dashed: the power law FID = {words.power(law)} ({words.interval(law.b_low, law.b_high)} "
        f"for the exponent, R² of log FID {law.r2:.2f}). "
        + ("Faint bars: one standard deviation between seeds, from other cells. " if len(_unsure(cells)) else "")
        + ("Open circles: the paper's models." if words.comparable(frame) else _APART)
    )


def fid_vs_compute(frame: pd.DataFrame) -> Figure:
    """Figure 9: FID over training compute, one line a model, with the best of all at each compute."""
    frames.one_setting(frame)
    lines = frames.curves(frame, "fid", "train_gflops")
    colours, dashes = style.size_colours(frame), style.dashes(frames.patches(frame))
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 5, "FID against training compute", words.subtitle(frame))
        (panel,) = axes[0]
        ends = []
        for cell, line in lines:
            colour, patch = colours[cell["model.size"]], int(cell["model.patch"])
            panel.plot(line["x"], line["mean"], color=colour, ls=dashes[patch], marker=style.marker(patch), mec="white")
            ends.append((line["x"].iloc[-1], line["mean"].iloc[-1], _name(cell), colour))
        x, y = fit.envelope(*_points(lines))
        panel.plot(x, y, color=style.INK, lw=6, alpha=0.12, solid_capstyle="round", zorder=1)
        panel.set(xlabel=words.COMPUTE, ylabel=words.metric_name(frame, "fid"))
        panel.margins(x=0.1)
        style.log_axis(panel.xaxis, _power)
        style.log_axis(panel.yaxis)
        style.floor(panel.yaxis, frames.floor(frame))
        style.settle(figure)
        style.point_labels(panel, [*ends, (*_middle(x, y), "lower envelope", style.MUTED)])
    return figure


def caption_fid_vs_compute(frame: pd.DataFrame) -> str:
    lines = frames.curves(frame, "fid", "train_gflops")
    best_x, best_y = fit.envelope(*_points(lines))
    owners = []
    for x, y in zip(best_x, best_y, strict=True):
        owners += [_name(cell) for cell, line in lines if ((line["x"] == x) & (line["mean"] == y)).any()]
    order = list(dict.fromkeys(owners))
    return (
        "The paper finds that small models, even trained for longer, use compute less well than larger ones: each is "
        "overtaken at some budget. Here the lowest FID at a given compute (grey band) belongs, from small to large "
        f"budget, to {', '.join(order[:12])}{', ...' if len(order) > 12 else ''}."
        + (" No other model is ever ahead." if len(order) == 1 else "")
        + " Every point is one evaluation of a run at constant learning rate."
    )


def quality_vs_gflops(frame: pd.DataFrame) -> Figure:
    """Figure 12: every quality metric of the finished models against their Gflops."""
    frames.one_setting(frame)
    cells, colours = frames.cells(frame), style.size_colours(frame)
    metrics = measured(frame)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    with style.theme():
        figure, axes = style.canvas(
            rows, columns, 3.5 * columns, 2.5 * rows + 0.9,
            "Every quality metric against model Gflops", words.subtitle(frame),
        )  # fmt: skip
        for panel, metric in zip(axes.flat, metrics, strict=False):
            for patch, group in cells.groupby("model.patch"):
                look = {"c": [colours[size] for size in group["model.size"]], "marker": style.marker(patch)}
                panel.scatter(group["model.gflops"], group[metric], s=26, lw=0.5, ec="white", **look)
            r = fit.pearson(np.log10(cells["model.gflops"]), cells[metric], resamples=0).r
            panel.set_title(f"{words.metric_name(frame, metric)}   r = {r:.2f}")
            panel.set_xlabel("Model Gflops (10⁹ multiply-adds)")
            style.log_axis(panel.xaxis)
            if metric == "fid":
                style.floor(panel.yaxis, frames.floor(frame))
        for panel in axes.flat[len(metrics) :]:
            panel.remove()
        style.legend(figure, axes.flat[0], frame)
        style.settle(figure)
    return figure


def caption_quality_vs_gflops(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame)
    good, bad = [], []
    for metric in measured(frame):
        r = fit.pearson(np.log10(cells["model.gflops"]), cells[metric], resamples=0).r
        (good if (r < 0) == (METRICS[metric].better == "lower") and abs(r) > 0.5 else bad).append(f"{metric} {r:.2f}")
    return (
        "The paper finds that Gflops correlate with every one of its metrics. Here the correlation with log10 Gflops "
        f"has the right sign and is above 0.5 for {', '.join(good) or 'none'}"
        + (f", but not for {', '.join(bad)}." if bad else ".")
        + " Arrows say which way is better."
    )


def measured(frame: pd.DataFrame) -> list[str]:
    """The quality metrics that at least two finished models have."""
    cells = frames.cells(frame)
    return [metric for metric in QUALITY if cells[metric].notna().sum() >= 2]


def _scaling(panel: Axes, cells: pd.DataFrame, colours: dict[str, str]) -> list[style.Label]:
    """Points, seed ranges, power law and correlation; returns the labels to place."""
    x, y = cells["model.gflops"].astype(float), cells["fid"].astype(float)
    if "fid_low" in cells:
        panel.vlines(x, cells["fid_low"], cells["fid_high"], color=[colours[s] for s in cells["model.size"]], lw=1)
        bars = _unsure(cells)
        spread, edges = np.exp(bars["fid_noise"]), [colours[size] for size in bars["model.size"]]
        panel.vlines(bars["model.gflops"], bars["fid"] / spread, bars["fid"] * spread, color=edges, lw=3, alpha=0.3)
    for patch, group in cells.groupby("model.patch"):
        look = {"c": [colours[size] for size in group["model.size"]], "marker": style.marker(patch)}
        panel.scatter(group["model.gflops"], group["fid"], s=38, lw=0.6, ec="white", zorder=3, **look)
    law, r = fit.power_law(x, y), fit.pearson(np.log10(x), y)
    if law.n >= 3:
        grid = np.geomspace(x.min() / 1.2, x.max() * 1.2, 100)
        panel.plot(grid, law(grid), color=style.PAPER, lw=1.1, ls=(0, (4, 3)), zorder=1)
    panel.set_xlim(x.min() / 1.7, x.max() * 2.2)
    panel.set_ylim(bottom=0)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.plain(value)))
    style.log_axis(panel.xaxis)
    text = f"Pearson r = {r.r:.2f}" + ("" if r.low != r.low else f"\n95 % interval {r.low:.2f} to {r.high:.2f}")
    panel.text(0.97, 0.96, f"{text}\n{r.n} models", transform=panel.transAxes, ha="right", va="top", linespacing=1.5)
    return [
        (cell["model.gflops"], cell["fid"], _name(cell), colours[cell["model.size"]]) for _, cell in cells.iterrows()
    ]


def _unsure(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of one seed, where the spread between seeds (`fid_noise`) is known from others."""
    told = cells if "fid_noise" in cells else cells.assign(fid_noise=np.nan)
    return told[told["fid_noise"].notna() & (told["seeds"] == 1)]


def _points(lines: list) -> tuple[np.ndarray, np.ndarray]:
    return (np.concatenate([line[name].to_numpy() for _, line in lines]) for name in ("x", "mean"))


def _middle(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    return x[len(x) // 3], y[len(y) // 3]


def _name(cell: pd.Series) -> str:
    return f"{cell['model.size']}/{cell['model.patch']} {cell.get('recipe', '')}".strip()


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    lead = value / 10**exponent
    text = "10" + str(exponent).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return text if abs(lead - 1) < 0.01 else f"{lead:.2g}×{text}"
