"""Over training: FID by size and by patch (the paper's Figure 6), and losses (Figure 13)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import fit, frames, paper, words
from analysis.figures import style

SMOOTH = 0.1  # share of a run that the smoothed training loss averages over
HELD_OUT = {  # the first of these that was measured, and what its axis says
    "val_loss": "Held-out noise MSE",
    "diffusion_loss": "Held-out diffusion loss",
}
ASKED = {  # what the training loss of an objective is
    "ddpm": "noise MSE plus the variational bound",
    "noise": "noise MSE",
    "v": "velocity MSE",
    "flow": "velocity MSE",
    "edm": "weighted image MSE",
}


def fid_by_size(frame: pd.DataFrame) -> Figure:
    """Figure 6, top: one panel per patch, one line per size; last, the paper's models at 400K steps."""
    frames.one_setting(frame)
    patches = frames.patches(frame)
    with style.theme():
        figure, axes = _panels(frame, len(patches), "FID over training, by model size")
        ends = []
        for panel, patch in zip(axes, patches, strict=False):
            part = frame[frame["model.patch"] == patch]
            ends.append(_lines(panel, part, frame, lambda cell: cell["model.size"], dashed=False))
            panel.set_title(f"Patch {patch}")
        _finish(figure, axes, ends, frame, "model.size", "model.patch", lambda patch: f"/{patch}")
    return figure


def caption_fid_by_size(frame: pd.DataFrame) -> str:
    found = fit.neighbours(frames.cells(frame)).size
    return (
        "The paper finds that at any patch size a larger transformer has the lower FID, at all stages of training "
        f"(9 of 9 neighbouring pairs in its Table 4). Here the next size up ends lower in {fit.count(found)}."
        f"{words.pairs(found)}"
    )


def fid_by_patch(frame: pd.DataFrame) -> Figure:
    """Figure 6, bottom: one panel per size, one line per patch; last, the paper's models at 400K steps."""
    frames.one_setting(frame)
    sizes = frames.sizes(frame)
    with style.theme():
        figure, axes = _panels(frame, len(sizes), "FID over training, by patch size")
        ends = []
        for panel, size in zip(axes, sizes, strict=False):
            part = frame[frame["model.size"] == size]
            ends.append(_lines(panel, part, frame, lambda cell: f"/{cell['model.patch']}"))
            panel.set_title(size)
        _finish(figure, axes, ends, frame, "model.patch", "model.size", str)
    return figure


def caption_fid_by_patch(frame: pd.DataFrame) -> str:
    found = fit.neighbours(frames.cells(frame)).patch
    return (
        "The paper finds that at any model size smaller patches, hence more tokens and more Gflops at the same number "
        "of parameters, have the lower FID (8 of 8 neighbouring pairs in its Table 4). "
        f"Here the next smaller patch ends lower in {fit.count(found)}.{words.pairs(found)}"
    )


def loss_curves(frame: pd.DataFrame) -> Figure:
    """Figure 13: training loss, smoothed, and held-out loss, one column per patch."""
    frames.one_setting(frame, frames.LOSS)
    patches, colours = frames.patches(frame), style.size_colours(frame)
    names = ["loss", *_held_out(frame)]
    with style.theme():
        figure, axes = style.canvas(
            len(names), len(patches), max(7.4, 3.3 * len(patches) + 0.6), 2.5 * len(names) + 0.8,
            "Loss over training", words.recipe(frame), sharex=True, sharey="row",
        )  # fmt: skip
        ends = []
        for row, name in zip(axes, names, strict=True):
            for panel, patch in zip(row, patches, strict=True):
                ends.append((panel, _losses(panel, frame[frame["model.patch"] == patch], name, colours)))
            row[0].set_ylabel(HELD_OUT.get(name, "Training loss, smoothed"))
            style.log_axis(row[0].yaxis)
        for panel, patch in zip(axes[0], patches, strict=True):
            panel.set_title(f"Patch {patch}")
        for panel in axes[-1]:
            panel.set_xlabel(words.IMAGES)
            style.images_axis(panel)
            panel.set_xlim(0, float(frame["images"].max()) * 1.22)
        style.settle(figure)
        for panel, labels in ends:
            style.end_labels(panel, labels, 6.5)
    return figure


def caption_loss_curves(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame)
    held_out, asked = _held_out(frame), words.objectives(frame)
    metric = held_out[0] if held_out and cells[held_out[0]].notna().sum() >= 2 else "loss"
    pairs = fit.neighbours(cells.assign(fid=cells[metric])).pairs
    kind = "training" if metric == "loss" else "held-out"
    found = f" Here the neighbour with more Gflops ends with the lower {kind} loss in {fit.count(pairs)} pairs."
    loss = ASKED.get(asked[0].split(",")[0] if asked else "ddpm", "what the objective asks")
    told = {
        "val_loss": " Held-out loss: the EMA model's noise MSE, fixed noise, even grid of timesteps.",
        "diffusion_loss": " Held-out loss: half the integral of the EMA model's noise MSE over log-SNR.",
    }
    return (
        f"The paper finds that models with more Gflops reach a lower training loss.{found if pairs else ''} "
        f"Training loss: {loss}, averaged over {SMOOTH:.0%} of the run; the thin line is what was logged."
        f"{told[held_out[0]] if held_out else ''}"
    )


def _held_out(frame: pd.DataFrame) -> list[str]:
    """The held-out loss to draw: none where none was measured."""
    return [name for name in HELD_OUT if frame[name].notna().any()][:1]


def band(panel: Axes, line: pd.DataFrame, **look) -> None:
    """The mean over seeds, and their range behind it."""
    panel.plot(line["x"], line["mean"], **look)
    if (line["high"] > line["low"]).any():
        panel.fill_between(line["x"], line["low"], line["high"], color=look["color"], alpha=0.15, lw=0)


def _panels(frame: pd.DataFrame, count: int, title: str) -> tuple[Figure, list[Axes]]:
    """`count` panels and one for the paper, at most five in a row."""
    rows, columns = -(-(count + 1) // 5), min(count + 1, 5)
    width = min(2.75 * columns + 0.4, 12)
    figure, axes = style.canvas(rows, columns, width, 2.9 * rows + 0.8, title, words.subtitle(frame))
    for panel in axes.flat[count + 1 :]:
        panel.remove()
    return figure, list(axes.flat[: count + 1])


def _lines(panel: Axes, part: pd.DataFrame, frame: pd.DataFrame, label, dashed: bool = True) -> list[style.Label]:
    """A line a cell; returns their labels. Where the paper measured the same thing, its end points as stars."""
    colours, dashes = style.size_colours(frame), style.dashes(frames.patches(frame))
    if words.comparable(frame):
        same = paper.scaling().merge(part[["model.size", "model.patch"]].drop_duplicates())
        edges = [colours[size] for size in same["model.size"]]
        panel.scatter(same["images"], same["fid"], s=60, c="none", marker="*", ec=edges, zorder=4)
    ends = []
    for cell, line in frames.curves(part, "fid"):
        colour, patch = colours[cell["model.size"]], int(cell["model.patch"])
        look = {"color": colour, "ls": dashes[patch] if dashed else "-", "marker": style.marker(patch), "mec": "white"}
        band(panel, line, **look)
        text = f"{label(cell)} {cell['recipe']}".strip()
        ends.append((line["x"].iloc[-1], line["mean"].iloc[-1], text, colour))
    return ends


def _finish(figure: Figure, panels, ends, frame: pd.DataFrame, along: str, across: str, say) -> None:
    """Shared axes of our panels, the paper's panel at the right, and the labels."""
    *ours, last = panels
    fids = frame["fid"].dropna()
    for panel in ours:
        panel.set_xlabel(words.IMAGES)
        panel.set_ylim(fids.min() / 1.15, fids.max() * 1.15)
        panel.set_xlim(0, float(frame.loc[frame["fid"].notna(), "images"].max()) * 1.32)
        style.images_axis(panel)
        style.log_axis(panel.yaxis)
        style.floor(panel.yaxis, frames.floor(frame), told=panel in ours[::5])
        if panel in ours[::5]:
            panel.set_ylabel(words.metric_name(frame, "fid"))
        else:
            panel.tick_params(labelleft=False)
    theirs = paper.scaling()
    steps = list(pd.unique(theirs[along]))
    labels = []
    for name, line in theirs.groupby(across, sort=False):
        places = [steps.index(value) for value in line[along]]
        patches = line["model.patch"]
        last.plot(places, line["fid"], color=style.PAPER, lw=1.1)
        for place, fid, patch in zip(places, line["fid"], patches, strict=True):
            last.plot(place, fid, style.marker(patch), color=style.PAPER, mec="white")
        labels.append((places[-1], line["fid"].iloc[-1], say(name), style.MUTED))
    last.set_xticks(range(len(steps)), [str(value) for value in steps])
    last.set_xlim(-0.3, len(steps) - 0.35)
    last.set(title="The paper at 400K steps", xlabel="Size" if along == "model.size" else "Patch", ylabel="FID-50K ↓")
    style.log_axis(last.yaxis)
    style.settle(figure)
    for panel, items in zip(ours, ends, strict=True):
        style.end_labels(panel, items)
    style.end_labels(last, labels)


def _losses(panel: Axes, part: pd.DataFrame, name: str, colours: dict[str, str]):
    ends, lines = [], frames.curves(part, name)
    kinds = [cell["model.conditioning"] for cell, _ in lines]
    typed, known = len(colours) == 1 and len(set(kinds)) > 1, style.kind_colours(kinds)
    for cell, line in lines:
        colour = known[cell["model.conditioning"]] if typed else colours[cell["model.size"]]
        if name == "loss":
            panel.plot(line["x"], line["mean"], color=colour, lw=0.6, alpha=0.25)
            window = line.rolling(max(3, int(SMOOTH * len(line)) // 2 * 2 + 1), center=True, min_periods=1)
            line = window.mean().assign(x=line["x"])  # centred: a lagging mean would flatter slow learners
        look = {"marker": style.marker(cell["model.patch"]), "mec": "white"} if len(line) <= 6 else {}
        band(panel, line, color=colour, **look)
        label = cell["recipe"] if typed else f"{cell['model.size']} {cell['recipe']}".strip()
        ends.append((line["x"].iloc[-1], line["mean"].iloc[-1], label, colour))
    return ends
