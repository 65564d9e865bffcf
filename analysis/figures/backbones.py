"""Backbones at equal Gflops: a transformer's FID beside a U-Net's."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, words
from analysis.figures import style

BACKBONE, SCHEDULE = "model.backbone", "diffusion.schedule"
NAMES = {"dit": "DiT", "unet": "U-Net"}
NEAR = 0.1  # Gflops that differ by less than this share are equal


def backbones(frame: pd.DataFrame) -> Figure:
    """FID against Gflops, a line for each backbone and noise schedule."""
    frames.one_setting(frame)
    cells = frames.cells(frame)
    colours = dict(zip(sorted(cells[BACKBONE].unique()), style.CATEGORIES, strict=False))
    with style.theme():
        figure, axes = style.canvas(1, 1, 8.6, 4.6, "FID against model Gflops, by backbone", words.subtitle(frame))
        (panel,) = axes[0]
        ends, points = [], []
        for (backbone, schedule), line in cells.groupby([BACKBONE, SCHEDULE]):
            line, colour = line.sort_values("model.gflops"), colours[backbone]
            look = {"marker": "o", "mec": "white"} if schedule == "linear" else {"marker": "D", "mfc": "white"}
            panel.plot(line["model.gflops"], line["fid"], color=colour, **look)
            *before, last = [(row["model.gflops"], row["fid"], row["model.size"], colour) for _, row in line.iterrows()]
            points += before
            ends.append((*last[:2], f"{last[2]} {NAMES.get(backbone, backbone)}, {schedule}", colour))
        panel.set(xlabel=words.GFLOPS, ylabel=words.metric_name(frame, "fid"))
        style.log_axis(panel.xaxis)
        style.log_axis(panel.yaxis)
        low, high = panel.get_xlim()
        panel.set_xlim(low, high * (high / low) ** 0.25)
        style.settle(figure)
        style.end_labels(panel, ends)
        style.point_labels(panel, points)
    return figure


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
        f"Gflops (within {NEAR:.0%}) the U-Net has the lower FID {' and '.join(texts)}.{words.diverged(frame)}"
    )


def _told(pair: pd.Series) -> str:
    fids = [words.plain(round(pair[name], 1)) for name in ("fid", "fid_dit")]
    return f"{pair['model.size']} {pair[SCHEDULE]} {fids[0]} against {fids[1]}"


def pairs(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells that are no DiT and have one of equal Gflops, smallest first; of that one `fid_dit`, `schedule_dit`."""
    transformers = cells[cells[BACKBONE] == "dit"]
    rows = []
    for _, cell in cells[cells[BACKBONE] != "dit"].sort_values("model.gflops").iterrows():
        apart = np.abs(np.log(transformers["model.gflops"] / cell["model.gflops"]))
        if len(apart) and apart.min() < NEAR:
            dit = transformers.loc[apart.idxmin()]
            rows.append({**cell, "fid_dit": dit["fid"], "schedule_dit": dit[SCHEDULE]})
    return pd.DataFrame(rows, columns=[*cells.columns, "fid_dit", "schedule_dit"])
