"""Backbones at equal Gflops: a transformer's FID beside a U-Net's."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import frames, words
from analysis.figures import style

BACKBONE, SCHEDULE = "model.backbone", "diffusion.schedule"
NAMES = {"dit": "DiT", "unet": "U-Net"}
METRICS = ("fid", "kid", "recall")
NEAR = 0.1  # Gflops that differ by less than this share are equal


def backbones(frame: pd.DataFrame) -> Figure:
    """FID, KID and recall against Gflops, a line for each backbone and noise schedule."""
    frames.one_setting(frame)
    cells = frames.cells(frame)
    metrics = [metric for metric in METRICS if cells[metric].notna().any()]
    with style.theme():
        figure, axes = style.canvas(
            1, len(metrics), 1.2 + 3.6 * len(metrics), 4.2, "Quality against model Gflops, by backbone",
            words.subtitle(frame),
        )  # fmt: skip
        drawn = [(panel, *_lines(panel, cells, frame, metric)) for panel, metric in zip(axes[0], metrics, strict=True)]
        style.settle(figure)
        for panel, ends, points in drawn:
            style.end_labels(panel, ends, 7)
            style.point_labels(panel, points, 6.5)
    return figure


def _lines(
    panel: Axes, cells: pd.DataFrame, frame: pd.DataFrame, metric: str
) -> tuple[list[style.Label], list[style.Label]]:
    """Draw one metric; returns the labels of the lines' ends and of the points before them."""
    colours = dict(zip(sorted(cells[BACKBONE].unique()), style.CATEGORIES, strict=False))
    ends, points = [], []
    for (backbone, schedule), line in cells.groupby([BACKBONE, SCHEDULE]):
        line, colour = line.sort_values("model.gflops"), colours[backbone]
        look = {"marker": "o", "mec": "white"} if schedule == "linear" else {"marker": "D", "mfc": "white"}
        panel.plot(line["model.gflops"], line[metric], color=colour, **look)
        *before, last = [(row["model.gflops"], row[metric], row["model.size"], colour) for _, row in line.iterrows()]
        points += before
        ends.append((*last[:2], f"{last[2]}\n{NAMES.get(backbone, backbone)}, {schedule}", colour))
    panel.set(title=words.metric_name(frame, metric), xlabel="Model Gflops (10⁹ multiply-adds)")
    style.log_axis(panel.xaxis)
    if metric == "fid":
        style.log_axis(panel.yaxis)
        style.floor(panel.yaxis, frames.floor(frame))
    low, high = panel.get_xlim()
    panel.set_xlim(low, high * (high / low) ** 0.45)
    return ends, points


def caption_backbones(frame: pd.DataFrame) -> str:
    found = pairs(frames.cells(frame))
    same = found[SCHEDULE] == found["schedule_dit"]
    texts = []
    for which, part in (("the DiT's own schedule", found[same]), ("another", found[~same])):
        if len(part):
            better, told = int((part["fid"] < part["fid_dit"]).sum()), [_told(pair) for _, pair in part.iterrows()]
            texts.append(f"with {which} in {better} of {len(part)} ({', '.join(told)})")
    return (
        "The paper finds that the U-Net's inductive bias is not crucial, against U-Nets that others trained. "
        "Here one recipe trained both but for the noise schedule, which is each backbone's own or the same. At equal "
        f"Gflops (within {NEAR:.0%}) the U-Net has the lower FID {' and '.join(texts)}{_others(found)}."
        f"{words.diverged(frame)}"
    )


def _others(found: pd.DataFrame) -> str:
    """The same of KID and recall, in words: one number does not tell which is better."""
    known = found[["kid", "kid_dit", "recall", "recall_dit"]].notna().all(axis=None)
    if not known:
        return ""
    kid, recall = int((found["kid"] < found["kid_dit"]).sum()), int((found["recall"] > found["recall_dit"]).sum())
    return f"; the lower KID in {kid} of {len(found)} and the higher recall in {recall} of {len(found)}"


def _told(pair: pd.Series) -> str:
    fids = [words.plain(round(pair[name], 1)) for name in ("fid", "fid_dit")]
    return f"{pair['model.size']} {pair[SCHEDULE]} {fids[0]} against {fids[1]}"


def pairs(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that are no DiT and have one of equal Gflops, smallest first; what is that one's ends in `_dit`."""
    transformers = cells[cells[BACKBONE] == "dit"]
    rows = []
    for _, cell in cells[cells[BACKBONE] != "dit"].sort_values("model.gflops").iterrows():
        apart = np.abs(np.log(transformers["model.gflops"] / cell["model.gflops"]))
        if len(apart) and apart.min() < NEAR:
            dit = transformers.loc[apart.idxmin()]
            rows.append({**cell, **{f"{metric}_dit": dit[metric] for metric in METRICS}, "schedule_dit": dit[SCHEDULE]})
    return pd.DataFrame(rows, columns=[*cells.columns, *(f"{metric}_dit" for metric in METRICS), "schedule_dit"])
