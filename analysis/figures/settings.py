"""The same models measured in several ways: sampling steps (the paper's Figure 10) and guidance (Tables 2 and 3).

The only figures whose axes hold several evaluation settings, since these are what they draw.
"""

from itertools import combinations

import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, words
from analysis.figures import style
from harness.record import METRICS

STEPS, SCALE, CHANNELS = "evaluate.steps", "evaluate.guidance", "evaluate.guidance_channels"
TRADED = ("fid", "inception_score", "precision", "recall")


def sampling(frame: pd.DataFrame) -> Figure:
    """Figure 10: FID against the compute of sampling one image, a line a model over its sampling steps."""
    cells, colours = sampled(frame), style.size_colours(frame)
    dashes = style.dashes(frames.patches(frame))
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 5, "FID against sampling compute", _subtitle(frame, STEPS))
        (panel,) = axes[0]
        ends = []
        for _, line in _lines(cells):
            first = line.iloc[0]
            colour, patch = colours[first["model.size"]], int(first["model.patch"])
            look = {"color": colour, "ls": dashes[patch], "marker": style.marker(patch), "mec": "white"}
            panel.plot(line["compute"], line["fid"], **look)
            ends.append((line["compute"].iloc[-1], line["fid"].iloc[-1], _name(first), colour))
        panel.set(xlabel="Sampling compute of one image, Gflops (model Gflops × steps)", ylabel=_fid(frame))
        panel.margins(x=0.1)
        style.log_axis(panel.xaxis)
        style.log_axis(panel.yaxis)
        style.settle(figure)
        style.point_labels(panel, ends)
    return figure


def caption_sampling(frame: pd.DataFrame) -> str:
    won, asked = outspent(sampled(frame))
    steps = sorted(map(int, frame[STEPS].dropna().unique()))
    return (
        "The paper finds that more sampling compute does not make up for less model compute: L/2 at 1,000 steps is "
        "worse than XL/2 at 128 with a fifth of the compute. Here, of all pairs in which the model with fewer Gflops "
        f"spends more on sampling, the larger model has the lower FID in {won:,} of {asked:,}"
        f"{f' ({won / asked:.0%})' if asked else ''}. Points of a line: {', '.join(f'{s:,}' for s in steps)} steps."
    )


def outspent(cells: pd.DataFrame) -> tuple[int, int]:
    """Of the pairs where the smaller model samples with more compute: (how often the larger is better, of how many).

    `cells`: one row a model and number of steps, with model.gflops, compute and fid.
    """
    won = asked = 0
    for (_, one), (_, other) in combinations(cells.iterrows(), 2):
        small, large = sorted((one, other), key=lambda row: row["model.gflops"])
        if small["model.gflops"] < large["model.gflops"] and small["compute"] > large["compute"]:
            asked += 1
            won += bool(large["fid"] < small["fid"])
    return won, asked


def sampled(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model and number of steps, with `compute`: the Gflops of sampling one image."""
    cells = pd.concat([frames.cells(part) for part in frames.groups(frame)], ignore_index=True)
    calls = 1 + (cells[SCALE] != 1)  # guidance asks the model twice
    return cells.assign(compute=cells["model.gflops"] * cells[STEPS] * calls)


def guidance(frame: pd.DataFrame) -> Figure:
    """Tables 2 and 3: FID, Inception Score, precision and recall against the scale of classifier-free guidance."""
    cells = pd.concat([frames.cells(part) for part in frames.groups(frame)], ignore_index=True)
    colours, dashes = style.size_colours(frame), style.dashes(frames.patches(frame))
    with style.theme():
        figure, axes = style.canvas(1, 4, 11.6, 3.4, "Classifier-free guidance", _subtitle(frame, SCALE))
        ends = []
        for panel, metric in zip(axes[0], TRADED, strict=True):
            labels = []
            for _, line in _lines(cells, CHANNELS, by=SCALE):
                first = line.iloc[0]
                colour, patch = colours[first["model.size"]], int(first["model.patch"])
                look = {"color": colour, "ls": dashes[patch], "marker": style.marker(patch), "mec": "white"}
                panel.plot(line[SCALE], line[metric], **look)
                labels.append((line[SCALE].iloc[-1], line[metric].iloc[-1], f"{_name(first)}{_which(first)}", colour))
            name = _fid(frame) if metric == "fid" else words.metric_name(frame, metric)
            panel.set(title=name, xlabel="Guidance scale (1: none)")
            panel.margins(x=0.05)
            low, high = panel.get_xlim()
            panel.set_xlim(low, high + 0.35 * (high - low))
            ends.append((panel, labels))
        style.settle(figure)
        for panel, labels in ends:
            style.end_labels(panel, labels, 6.5)
    return figure


def caption_guidance(frame: pd.DataFrame) -> str:
    cells = pd.concat([frames.cells(part) for part in frames.groups(frame)], ignore_index=True)
    texts = []
    for _, line in _lines(cells, CHANNELS, by=SCALE):
        best, last = line.loc[line["fid"].idxmin()], line.iloc[-1]
        texts.append(
            f"{_name(best)}{_which(best)} is best at {best[SCALE]:g} (FID {words.plain(round(best['fid'], 1))}), and "
            f"from {line[SCALE].iloc[0]:g} to {last[SCALE]:g} precision goes from {line['precision'].iloc[0]:.3f} to "
            f"{last['precision']:.3f} and recall from {line['recall'].iloc[0]:.3f} to {last['recall']:.3f}"
        )
    return (
        "The paper's DiT-XL/2 after 7M steps goes from FID 9.62 without guidance to 2.27 at scale 1.5, trading recall "
        f"(0.67 to 0.57) for precision (0.67 to 0.83). Here {'; '.join(texts)}."
    )


def _lines(cells: pd.DataFrame, *more: str, by: str = STEPS) -> list[tuple[object, pd.DataFrame]]:
    """A frame for each model (and value of `more`), ordered by what the line runs over."""
    keys = [*frames.SHAPE, "recipe", *more]
    return [(key, line.sort_values(by)) for key, line in cells.groupby(keys, sort=False, dropna=False)]


def _name(row: pd.Series) -> str:
    return f"{row['model.size']}/{row['model.patch']} {row['recipe']}".strip()


def _which(row: pd.Series) -> str:
    return f", {row[CHANNELS]} channels" if row[CHANNELS] else ""


def _fid(frame: pd.DataFrame) -> str:
    return f"{words.fid_name(frame)} {'↓' if METRICS['fid'].better == 'lower' else '↑'}"


def _subtitle(frame: pd.DataFrame, varied: str) -> str:
    """The setting, told without what the figure varies."""
    one = frame.assign(**{varied: frame[varied].iloc[0]})
    told = words.subtitle(one)
    value = words.the(one, varied)
    return told.replace(f" {value} steps", "") if varied == STEPS else told.replace("no guidance", "guidance as shown")
