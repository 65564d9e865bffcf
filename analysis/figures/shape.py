"""What a model is made of: conditioning types (the paper's Figure 5), depth by width, and samples (Figure 7)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import frames, paper, words
from analysis.figures import style
from analysis.figures.curves import band

SHEET = 8  # tiles across a sample sheet, as `harness.record.SAMPLES` holds them
CROP = 4  # tiles of a sheet's top left corner that are shown, each way


def conditioning(frame: pd.DataFrame) -> Figure:
    """Figure 5: FID over training for each conditioning type, and where they end, beside the paper's DiT-XL/2."""
    frames.one_setting(frame)
    with style.theme():
        figure, axes = style.canvas(
            1, 3, 11.2, 4, "Conditioning types", words.subtitle(frame), gridspec_kw={"width_ratios": [1.5, 1, 1]}
        )
        over, final, theirs = axes[0]
        colours = style.kind_colours(frame["model.conditioning"])
        ends = []
        shapes = frame.drop_duplicates(list(frames.SHAPE))
        for cell, line in frames.curves(frame, "fid"):
            kind = cell["model.conditioning"]
            label = kind if len(shapes) == 1 else f"{cell['model.size']}/{cell['model.patch']} {kind}"
            look = {"color": colours[kind], "marker": style.marker(cell["model.patch"]), "mec": "white"}
            band(over, line, **look)
            ends.append((line["x"].iloc[-1], line["mean"].iloc[-1], label, look["color"]))
        over.set(title="Over training", xlabel=words.IMAGES, ylabel=words.metric_name(frame, "fid"))
        over.set_xlim(0, float(frame.loc[frame["fid"].notna(), "images"].max()) * 1.45)
        style.images_axis(over)
        style.log_axis(over.yaxis)
        style.floor(over.yaxis, frames.floor(frame))
        labels = _endpoints(final, frames.cells(frame))
        final.set(title="At the end", ylabel=words.metric_name(frame, "fid"))
        style.floor(final.yaxis, frames.floor(frame))
        faint = _endpoints(theirs, paper.conditioning())
        theirs.set(title="The paper: DiT-XL/2, 400K steps", ylabel="FID-50K (inception features) ↓")
        style.settle(figure)
        style.end_labels(over, ends)
        style.point_labels(final, labels)
        style.point_labels(theirs, faint)
    return figure


def caption_conditioning(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame)
    texts, first = [], []
    for (size, patch), group in cells.groupby(["model.size", "model.patch"], sort=False):
        ranked = group.sort_values("fid")
        if len(ranked) > 1:
            order = [f"{row['model.conditioning']} {words.plain(round(row['fid'], 1))}" for _, row in ranked.iterrows()]
            texts.append(f"{size}/{patch}: {', '.join(order)}")
            if "adaLN-Zero" in set(ranked["model.conditioning"]):
                first.append(ranked["model.conditioning"].iloc[0] == "adaLN-Zero")
    verdict = " adaLN-Zero is best here too." if all(first) else " adaLN-Zero is not best everywhere here."
    return (
        "The paper finds adaLN-Zero best, at less compute than cross-attention or in-context conditioning: FID 19.5, "
        "against 25.2 (adaLN), 26.1 (cross-attention) and 35.2 (in-context). Here, from best to worst, "
        f"{'; '.join(texts)}.{verdict if first else ''}{words.diverged(frame)}"
        if texts
        else "The paper finds adaLN-Zero best of the four conditioning types. Too few have finished here."
    )


def depth_width(frame: pd.DataFrame) -> Figure:
    """FID against Gflops coloured by depth, and FID over depth and width: is it compute or shape that counts?"""
    frames.one_setting(frame)
    cells = frames.cells(frame)
    patches = frames.patches(cells)
    depths = sorted(cells["model.depth"].unique())
    colours = dict(zip(depths, sns.color_palette("crest", len(depths)).as_hex(), strict=True))
    with style.theme():
        figure, axes = style.canvas(
            1, 1 + len(patches), 5 + 3.6 * len(patches), 4.2, "Depth and width", words.subtitle(frame),
            gridspec_kw={"width_ratios": [1.3, *[1] * len(patches)]},
        )  # fmt: skip
        points, *maps = axes[0]
        labels = []
        for (depth, patch, _), group in cells.groupby(["model.depth", "model.patch", "recipe"]):
            group = group.sort_values("model.gflops")
            points.plot(group["model.gflops"], group["fid"], color=colours[depth], lw=0.9, alpha=0.5)
            look = {"color": colours[depth], "marker": style.marker(patch)}
            points.scatter(group["model.gflops"], group["fid"], s=36, ec="white", zorder=3, **look)
            labels += [
                (row["model.gflops"], row["fid"], f"{row['model.depth']}×{row['model.width']}", colours[depth])
                for _, row in group.iterrows()
            ]
        points.set(title="Depth × width, coloured by depth", xlabel=words.GFLOPS)
        points.set_ylabel(words.metric_name(frame, "fid"))
        points.margins(x=0.12)
        style.log_axis(points.xaxis)
        style.log_axis(points.yaxis)
        style.floor(points.yaxis, frames.floor(frame))
        for panel, patch in zip(maps, patches, strict=True):
            at = cells[cells["model.patch"] == patch]
            table = at.pivot_table(index="model.depth", columns="model.width", values="fid").sort_index(ascending=False)
            sns.heatmap(
                table.astype(float), ax=panel, annot=True, fmt=".4g", cmap="flare_r", cbar=False, linewidths=1.5,
                norm=_log_norm(cells["fid"]), annot_kws={"fontsize": 8},
            )  # fmt: skip
            panel.grid(False)
            panel.tick_params(length=0, rotation=0)
            panel.set(title=f"FID ↓, patch {patch}", xlabel="Width (channels)", ylabel="Depth (blocks)")
        style.settle(figure)
        style.point_labels(points, labels)
    return figure


def caption_depth_width(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame)
    deeper, wider = _better(cells, "model.depth", "model.width"), _better(cells, "model.width", "model.depth")
    return (
        "The paper grows depth and width together and finds Gflops, not parameters, decisive. Here, other things "
        f"equal, the deeper of two neighbours has the lower FID in {deeper[0]} of {deeper[1]} pairs and the wider in "
        f"{wider[0]} of {wider[1]}. Where points of different depth fall on one curve, the split does not matter."
    )


def sample_grid(frame: pd.DataFrame, images: Mapping[str, Path]) -> Figure:
    """Figure 7: samples by size (columns) and patch (rows), all from the same noise and labels.

    `images`: run id -> its last sample sheet, `SHEET` tiles across.
    """
    runs = frame[frame["run_id"].isin(images) & ~frame["status"].isin(frames.BAD_ENDS)]
    runs = runs.drop_duplicates("run_id").sort_values("seed", kind="stable")
    sizes, patches = frames.sizes(runs), frames.patches(runs)
    side = 1.75 if len(sizes) <= 5 else 1.3
    with style.theme():
        figure, axes = style.canvas(
            len(patches), len(sizes), side * len(sizes) + 0.7, side * len(patches) + 1.1, "Samples by size and patch",
            words.recipe(frame),
        )  # fmt: skip
        for row, patch in zip(axes, patches, strict=True):
            for panel, size in zip(row, sizes, strict=True):
                found = runs[(runs["model.size"] == size) & (runs["model.patch"] == patch)]
                _tile(panel, images[found["run_id"].iloc[0]] if len(found) else None)
        for panel, size in zip(axes[0], sizes, strict=True):
            panel.set_title(size, loc="center")
        for panel, patch in zip(axes[:, 0], patches, strict=True):
            panel.set_ylabel(f"Patch {patch}", fontsize=9, fontweight="bold")
        style.settle(figure)
    return figure


def caption_sample_grid(frame: pd.DataFrame) -> str:
    return (
        "The paper finds that samples get visibly better along both axes: with larger models (left to right) and with "
        f"smaller patches (top to bottom). The same noise and the same labels in every cell, {CROP * CROP} samples of "
        "each model's last evaluation, none picked by hand; judge by eye."
    )


def _endpoints(panel: Axes, cells: pd.DataFrame) -> list[style.Label]:
    """One point a conditioning type; returns the labels to place."""
    known = style.kind_colours(cells["model.conditioning"])
    colours = [known[kind] for kind in cells["model.conditioning"]]
    if "fid_low" in cells:
        panel.vlines(cells["model.gflops"], cells["fid_low"], cells["fid_high"], color=colours, lw=1)
    panel.scatter(cells["model.gflops"], cells["fid"], s=46, c=colours, ec="white", zorder=3)
    panel.margins(x=0.35, y=0.15)
    panel.set_xlabel("Model Gflops (10⁹ multiply-adds)")
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.plain(value)))
    return [
        (row["model.gflops"], row["fid"], f"{row['model.conditioning']}\n{words.plain(round(row['fid'], 1))}", colour)
        for (_, row), colour in zip(cells.iterrows(), colours, strict=True)
    ]


def _better(cells: pd.DataFrame, along: str, fixed: str) -> tuple[int, int]:
    """(how often the next larger value along one axis has the lower FID, of how many pairs)."""
    steps = [
        group.sort_values(along)["fid"].diff().dropna() for _, group in cells.groupby([fixed, "model.patch", "recipe"])
    ]
    return int(sum((step < 0).sum() for step in steps)), sum(map(len, steps))


def _log_norm(fids: pd.Series) -> LogNorm:
    return LogNorm(float(fids.min()), float(fids.max()) * 1.0001)


def _tile(panel: Axes, path: Path | None) -> None:
    panel.set(xticks=[], yticks=[])
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    if path is None:
        panel.text(0.5, 0.5, "no samples", transform=panel.transAxes, ha="center", va="center", color=style.MUTED)
        return
    sheet = np.asarray(imread(path))
    tile = sheet.shape[1] // SHEET
    panel.imshow(sheet[: CROP * tile, : CROP * tile], cmap="gray", interpolation="nearest")
