"""The same models measured in several ways: sampling steps (the paper's Figure 10) and guidance (Tables 2 and 3).

The only figures whose axes hold several evaluation settings, since these are what they draw.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, words
from analysis.figures import style
from harness.record import METRICS

STEPS, SAMPLER = "evaluate.steps", "evaluate.sampler"
SCALE, CHANNELS, CALLS = "evaluate.guidance", "evaluate.guidance_channels", "evaluate.calls"
PAPERS = "ddpm"  # the sampler of its figure
STEPWISE = ("ddim", "dpm++", "euler", "heun")  # samplers that draw no noise after the first
TRADED = ("fid", "inception_score", "precision", "recall")


def sampling(frame: pd.DataFrame) -> Figure:
    """Figure 10: FID against the compute of sampling one image, a panel a sampler, a line a model over its steps."""
    names = samplers(frame)
    frame = frame[frame[SAMPLER].isin(names)]
    cells, colours, dashes = _varied(frame), style.size_colours(frame), style.dashes(frames.patches(frame))
    with style.theme():
        figure, axes = style.canvas(
            1, len(names), 8.6 if len(names) == 1 else 5.6 * len(names), 5, "FID against sampling compute",
            words.subtitle(frame, (STEPS, *([SAMPLER] if len(names) > 1 else []))), sharey=True,
        )  # fmt: skip
        ends = []
        for panel, name in zip(axes[0], names, strict=True):
            labels = []
            for _, line in _lines(cells[cells[SAMPLER] == name]):
                first = line.iloc[0]
                colour, patch = colours[first["model.size"]], int(first["model.patch"])
                look = {"color": colour, "ls": dashes[patch], "marker": style.marker(patch), "mec": "white"}
                panel.plot(line["compute"], line["fid"], **look)
                labels.append((line["compute"].iloc[-1], line["fid"].iloc[-1], _name(first), colour))
            panel.set_xlabel("Sampling compute of one image, Gflops (model Gflops × calls)")
            if len(names) > 1:
                panel.set_title(f"{words.sampler(name)}{', as in the paper' if name == PAPERS else ''}")
            panel.margins(x=0.1)
            style.log_axis(panel.xaxis)
            ends.append((panel, labels))
        axes[0][0].set_ylabel(_fid(frame))
        style.log_axis(axes[0][0].yaxis)
        for panel in axes[0]:
            style.floor(panel.yaxis, frames.floor(frame), told=panel is axes[0][0])
        style.settle(figure)
        for panel, labels in ends:
            style.point_labels(panel, labels)
    return figure


def caption_sampling(frame: pd.DataFrame) -> str:
    cells, counts, found = _varied(frame), [], []
    for name in samplers(frame):
        part = cells[cells[SAMPLER] == name]
        won, asked = outspent(part)
        counts += [f"{won:,} of {asked:,} ({won / asked:.0%}) by {words.sampler(name)}"] if asked else []
        found.append(_lowest(part))
    pairs = (
        " Here, of all pairs in which the model with fewer Gflops spends more on sampling, the larger model has the "
        f"lower FID in {' and in '.join(counts)}."
    )
    return (
        "The paper finds that more sampling compute does not make up for less model compute: L/2 at 1,000 steps is "
        f"worse than XL/2 at 128 with a fifth of the compute.{pairs if counts else ''}{''.join(found)}"
    )


def samplers(frame: pd.DataFrame) -> list[str]:
    """Those by which some model was measured at several numbers of steps, the paper's first."""
    return sorted(_varied(frame)[SAMPLER].unique(), key=lambda name: (name != PAPERS, name))


def _varied(frame: pd.DataFrame) -> pd.DataFrame:
    """`sampled` of the models that one sampler measured at several numbers of steps."""
    cells = sampled(frame)
    steps = cells.groupby([*frames.SHAPE, "recipe", SAMPLER], dropna=False)[STEPS].transform("nunique")
    return cells[steps > 1]


def _lowest(cells: pd.DataFrame) -> str:
    """At how many steps of one sampler FID is lowest, over the models that were measured at all of them."""
    table = cells.groupby([*frames.SHAPE, "recipe", STEPS], dropna=False)["fid"].mean().unstack(STEPS).dropna()
    name, steps = cells[SAMPLER].iloc[0], sorted(cells[STEPS].unique())
    kind = ", which adds no noise," if name in STEPWISE else ""
    told = f" {words.sampler(name)}{kind} at {', '.join(f'{step:,}' for step in steps)} steps"
    if table.empty:
        return f"{told}."
    over = np.log(table.astype(float)).mean()  # ln FID at each number of steps
    best = over.idxmin()
    ends = [
        f"{np.expm1(over[step] - over[best]):.0%} above that at {step:,}"
        for step in (over.index[0], over.index[-1]) if step != best
    ]  # fmt: skip
    mean = " in the mean over models" if len(table) > 1 else ""
    return f"{told}: FID is lowest at {best:,}{mean}, {' and '.join(ends)}."


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
    """One row a model and way of sampling, with `compute`: the Gflops of sampling one image."""
    cells = frames.cells(frame, (SAMPLER, STEPS, SCALE, CHANNELS))
    steps = cells[STEPS] * (1 + (cells[SCALE] != 1))  # guidance asks the model twice
    calls = cells[CALLS].fillna(steps) if CALLS in cells else steps  # runs of before tell no calls
    return cells.assign(compute=cells["model.gflops"] * calls)


def guidance(frame: pd.DataFrame) -> Figure:
    """Tables 2 and 3: FID, Inception Score, precision and recall against the scale of classifier-free guidance."""
    cells = frames.cells(frame, (SCALE, CHANNELS))
    colours, dashes = style.size_colours(frame), style.dashes(frames.patches(frame))
    with style.theme():
        figure, axes = style.canvas(
            1, 4, 11.6, 3.4, "Classifier-free guidance", f"{words.subtitle(frame, (SCALE,))}, guidance as shown"
        )
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
            if metric == "fid":
                style.floor(panel.yaxis, frames.floor(frame))
            ends.append((panel, labels))
        style.settle(figure)
        for panel, labels in ends:
            style.end_labels(panel, labels, 6.5)
    return figure


def caption_guidance(frame: pd.DataFrame) -> str:
    cells = frames.cells(frame, (SCALE, CHANNELS))
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
