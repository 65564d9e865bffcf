"""What a network is trained to predict: objectives at equal Gflops, and where on the way from noise to image they err.

The figures of several objectives on one axis, each sampled in a way of its own.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, paper, words
from analysis.figures import style
from harness.record import LOG_SNR

WAY = ("evaluate.sampler", "evaluate.steps")
ACROSS = (*frames.OBJECTIVE, *WAY)
NOISE, UNIFORM = "ddpm", ("flow", "flow, uniform")  # DiT's, and SiT's: the density of `flow` is uniform


def objectives(frame: pd.DataFrame) -> Figure:
    """FID and KID against Gflops, a line an objective."""
    cells = compared(frame)
    frame = _of(frame, cells)
    metrics = [metric for metric in ("fid", "kid") if cells[metric].notna().any()]
    with style.theme():
        figure, axes = style.canvas(
            1, len(metrics), 1.6 + 4.6 * len(metrics), 4.6, "Objectives at equal Gflops",
            f"{words.subtitle(frame, ACROSS)}, {'; '.join(_ways(cells))}",
        )  # fmt: skip
        drawn = []
        for panel, metric in zip(axes[0], metrics, strict=True):
            drawn.append((panel, *_lines(panel, cells, metric)))
            panel.set(title=words.metric_name(frame, metric), xlabel="Model Gflops (10⁹ multiply-adds)")
            panel.margins(y=0.1)
            style.log_axis(panel.xaxis)
            low, high = panel.get_xlim()
            panel.set_xlim(low / max((high / low) ** 0.16, 1.2), high * max((high / low) ** 0.5, 1.5))
            if metric == "fid":
                style.log_axis(panel.yaxis)
                style.floor(panel.yaxis, frames.floor(frame))
        style.settle(figure)
        for panel, ends, sizes in drawn:
            style.end_labels(panel, ends, 7)
            for x, y, text, colour in sizes:  # FID falls to the right: below and left of a column's lowest is room
                panel.annotate(
                    text, (x, y), (-1, -4), textcoords="offset points", ha="right", va="top", fontsize=6.5, color=colour
                )
    return figure


def caption_objectives(frame: pd.DataFrame) -> str:
    cells = compared(frame)
    texts = []
    for _, group in cells.groupby([*frames.SHAPE, "recipe"], sort=False, dropna=False):
        order = [
            f"{row['objective']} {words.plain(round(row['fid'], 1))}" for _, row in group.sort_values("fid").iterrows()
        ]
        if len(order) > 1:
            texts.append(f"{_model(group.iloc[0])}: {' < '.join(order)}")
    pairs = against(cells)
    published = paper.sit()[lambda rows: rows["ksteps"] == 400]
    theirs = ", ".join(
        f"{row.sit_sde_fid:.1f} against {row.dit_fid:.1f} ({row.model})" for row in published.itertuples()
    )
    ahead = (
        f" Linear velocity is ahead of noise prediction in {sum(pairs['gap'] < 0)} of {len(pairs)}."
        if len(pairs)
        else ""
    )
    return (
        "Ma et al. (SiT, arXiv 2401.08740) keep everything of the paper's but the objective, and find velocity on a "
        f"straight path ahead of noise prediction at every size: FID {theirs}. Here, from best to worst, "
        f"{'; '.join(texts)}.{ahead} Each objective is sampled in its own way.{words.diverged(frame)}"
    )


def compared(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a model and objective, by Gflops, with `objective` in words; of recipes that several objectives share.

    An objective is measured by the sampler and steps that most of its models were measured by, of equally many by those
    that give the lowest FID.
    """
    cells = _shared(frames.cells(frame, ACROSS))
    ways = cells.assign(log=np.log(cells["fid"].astype(float))).groupby(["objective", *WAY], sort=False)["log"]
    best = ways.agg(["size", "mean"]).sort_values(["size", "mean"], ascending=[False, True], kind="stable")
    best = best.reset_index().drop_duplicates("objective")
    return _shared(cells.merge(best[["objective", *WAY]], on=["objective", *WAY]))


def _shared(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of recipes that some model was trained with under several objectives, with `objective` in words.

    `said`: the recipe where there are several, else empty.
    """
    cells = cells.assign(objective=[words.objective(row) for _, row in cells.iterrows()])
    several = cells.groupby([*frames.SHAPE, "recipe"], dropna=False)["objective"].transform("nunique") > 1
    cells = cells[cells["recipe"].isin(cells["recipe"][several])].reset_index(drop=True)
    return cells.assign(said=cells["recipe"] if cells["recipe"].nunique() > 1 else "")


def _of(frame: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of the shapes and recipes of some cells."""
    keys = [*frames.SHAPE, "recipe"]
    return frames.with_recipe(frame).merge(cells[keys].drop_duplicates(), on=keys)


def against(cells: pd.DataFrame, one: tuple[str, ...] = UNIFORM, other: tuple[str, ...] = (NOISE,)) -> pd.DataFrame:
    """Of `compared`, a row a model with both: its `name`, the `gap` of ln FID (negative if `one` is ahead), `seeds`."""
    rows = []
    for _, group in cells.groupby([*frames.SHAPE, "recipe"], sort=False, dropna=False):
        found = [group[group["objective"].isin(names)].head(1) for names in (one, other)]
        if all(len(row) for row in found):
            fids, seeds = ([row[name].iloc[0] for row in found] for name in ("fid", "seeds"))
            gap = float(np.log(fids[0] / fids[1]))
            rows.append({"name": _model(group.iloc[0]), "gap": gap, "fids": fids, "seeds": tuple(map(int, seeds))})
    return pd.DataFrame(rows, columns=["name", "gap", "fids", "seeds"])


def diffusion_loss(frame: pd.DataFrame) -> Figure:
    """Held-out MSE of noise and of image over log-SNR at one model, a line an objective; last, over the first's."""
    cells = asked_alike(frame)
    first = cells.iloc[0]
    colours = style.kind_colours(cells["objective"], style.OBJECTIVES)
    with style.theme():
        figure, axes = style.canvas(
            1, 3, 11.6, 3.9, "Held-out error by noise level",
            f"{_model(first)}, {words.recipe(_of(frame, cells), ACROSS)}",
            gridspec_kw={"width_ratios": [1, 1, 1.45]},
        )  # fmt: skip
        noise, image, ratio = axes[0]
        ends, levels = [], np.array(LOG_SNR)
        for _, row in cells.iterrows():
            look = {"color": colours[row["objective"]], "marker": "o", "ms": 3, "mec": "white", "mew": 0.4, "lw": 1.2}
            of_noise, of_image, of_first = (
                np.array([each[f"{kind}_mse/{level}"] for level in LOG_SNR], float)
                for each, kind in ((row, "noise"), (row, "image"), (first, "noise"))
            )
            noise.plot(levels, of_noise, **look)
            image.plot(levels, of_image, **look)
            ratio.plot(levels, of_noise / of_first, **look)
            known = np.flatnonzero(np.isfinite(of_noise / of_first))
            ends.append((levels[known[-1]], (of_noise / of_first)[known[-1]], _integral(row), look["color"]))
        for panel in (noise, image):
            style.log_axis(panel.yaxis, lambda value: f"{value:g}")
        for panel in axes[0]:
            panel.set(xlabel="log-SNR, from noise to image", xticks=LOG_SNR[::2])
        noise.set_title("Noise MSE ↓")
        image.set_title("Image MSE ↓")
        ratio.set_title(f"Either, over that of {first['objective']} ↓")
        ratio.set_xlim(LOG_SNR[0] - 0.6, LOG_SNR[-1] + 0.95 * (LOG_SNR[-1] - LOG_SNR[0]))
        style.settle(figure)
        style.end_labels(ratio, ends, 7)
    return figure


def caption_diffusion_loss(frame: pd.DataFrame) -> str:
    cells = asked_alike(frame)
    known = cells[cells["diffusion_loss"].notna()].sort_values("diffusion_loss")
    order = " < ".join(f"{row['objective']} {row['diffusion_loss']:#.3g}" for _, row in known.iterrows())
    keys = [*frames.SHAPE, "recipe"]
    sampled = compared(frame).merge(cells[keys].drop_duplicates(), on=keys)
    fids = " < ".join(sampled.sort_values("fid")["objective"])
    return (
        f"Each objective of {_model(cells.iloc[0])} is asked the same, which training losses as the paper's are not: "
        "what noise and what image are in the same held-out images under the same noise, at nine log ratios of signal "
        "to noise. The numbers are half the area under the first curve, those noise levels' part of a bound on the "
        f"likelihood, in nats a value (arXiv 2107.00630); from best to worst {order}. By FID the order is {fids}."
    )


def asked_alike(frame: pd.DataFrame) -> pd.DataFrame:
    """One row an objective whose error by noise level is known, of the largest of the models with most of them.

    In the order of `style.OBJECTIVES`: the paper's comes first if it is there.
    """
    cells = frames.cells(frame, frames.OBJECTIVE)
    cells = _shared(cells[cells["noise_mse/0"].notna()])
    if cells.empty:
        return cells
    groups = [group for _, group in cells.groupby([*frames.SHAPE, "recipe"], sort=False, dropna=False)]
    most = max(groups, key=lambda group: (len(group), group["model.gflops"].max()))
    places = {name: place for place, name in enumerate(style.OBJECTIVES)}
    return most.sort_values("objective", key=lambda names: names.map(lambda name: places.get(name, len(places))))


def _lines(panel, cells: pd.DataFrame, metric: str) -> tuple[list[style.Label], list[style.Label]]:
    """Draw one metric; returns the labels of the lines' ends, and of the models below their lowest points."""
    colours, patches = style.kind_colours(cells["objective"], style.OBJECTIVES), frames.patches(cells)
    dashes, ends = style.dashes(patches) if len(patches) > 1 else dict.fromkeys(patches, "-"), []
    for (name, recipe, _, patch), line in cells.groupby(
        ["objective", "said", "model.backbone", "model.patch"], sort=False, dropna=False
    ):
        line = line[line[metric].notna()].sort_values("model.gflops")
        if line.empty:
            continue
        look = {"color": colours[name], "ls": dashes[int(patch)], "marker": style.marker(patch), "mec": "white"}
        panel.plot(line["model.gflops"], line[metric], **look)
        if metric == "fid":
            panel.vlines(line["model.gflops"], line["fid_low"], line["fid_high"], color=colours[name], lw=1)
        text = " ".join(filter(None, (name, recipe, f"/{patch}" if len(patches) > 1 else "")))
        ends.append((line["model.gflops"].iloc[-1], line[metric].iloc[-1], text, colours[name]))
    sizes = []
    for _, group in cells[cells[metric].notna()].groupby(list(frames.SHAPE), sort=False, dropna=False):
        low = group.loc[group[metric].idxmin()]
        sizes.append((low["model.gflops"], low[metric], _model(low), style.INK))
    return ends, sizes


def _ways(cells: pd.DataFrame) -> list[str]:
    """`DDIM 10 steps (ddpm, noise)`, with the calls of a sampler that does not make one a step."""
    texts = []
    for (name, steps), part in cells.groupby(list(WAY), sort=False):
        calls = part["evaluate.calls"].dropna().unique() if "evaluate.calls" in part else []
        more = f" of {calls[0]} calls in all" if len(calls) and calls[0] not in (steps, 2 * steps) else ""
        texts.append(f"{words.sampler(name)} {steps} steps{more} ({' / '.join(part['objective'].unique())})")
    return texts


def _integral(row: pd.Series) -> str:
    loss = row["diffusion_loss"]
    return row["objective"] if pd.isna(loss) else f"{row['objective']}: {loss:#.3g}"


def _model(row: pd.Series) -> str:
    return f"{row['model.size']}/{row['model.patch']} {row['said']}".strip()
