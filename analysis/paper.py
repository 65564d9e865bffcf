"""What Peebles & Xie (arXiv 2212.09748) and Ma et al. (arXiv 2401.08740) printed, as frames. Every row has its source.

`models()` has the harness's column names, so that every fit and figure works on it as on a frame of runs.
FID there is FID-50K: Inception features, ImageNet 256x256, 250 DDPM steps, no guidance.
"""

from functools import cache
from importlib.resources import files

import pandas as pd

PEARSON = -0.93  # Figure 8: correlation of log10 Gflops and FID over the twelve models of Table 4
SETTING = "FID-50K, ImageNet 256x256, Inception, 250 DDPM steps, no guidance"

_CONDITIONING = {
    "adaln_zero": "adaLN-Zero",
    "adaln": "adaLN",
    "in_context": "in-context",
    "cross_attention": "cross-attention",
}
_NAMES = {
    "size": "model.size",
    "layers": "model.depth",
    "width": "model.width",
    "heads": "model.heads",
    "patch": "model.patch",
    "conditioning": "model.conditioning",
    "gflops": "model.gflops",
    "params_m": "model.params_m",
    "batch": "train.batch",
    "lr": "train.lr",
    "fid_50k": "fid",
}


@cache
def _table(name: str) -> pd.DataFrame:
    with (files("analysis") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def models() -> pd.DataFrame:
    """Tables 1 and 4: all 17 models, one row each, with `ksteps` (training steps in thousands) and `images`."""
    frame = _table("dit_models").rename(columns=_NAMES)
    frame["model.conditioning"] = frame["model.conditioning"].map(_CONDITIONING)
    frame["images"] = frame["ksteps"] * 1000 * frame["train.batch"]
    frame["train_gflops"] = frame["model.gflops"] * frame["images"] * 3  # the axis of Figure 9
    return frame


def scaling() -> pd.DataFrame:
    """The twelve models of Figures 6 and 8: S, B, L, XL with patch 8, 4, 2, adaLN-Zero, 400K steps."""
    frame = models()
    return frame[(frame["model.conditioning"] == "adaLN-Zero") & (frame["ksteps"] == 400)].reset_index(drop=True)


def conditioning() -> pd.DataFrame:
    """The four models of Figure 5: DiT-XL/2 with each conditioning type, 400K steps."""
    frame = models()
    return frame[(frame["model"] == "DiT-XL/2") & (frame["ksteps"] == 400)].reset_index(drop=True)


def headline() -> pd.DataFrame:
    """Tables 2, 3 and 5: FID, sFID, IS, precision and recall of DiT-XL/2 and of the models it is compared with."""
    return _table("headline").copy()


def unet_gflops() -> pd.DataFrame:
    """Table 6: Gflops of the U-Nets, same convention."""
    return _table("unet_gflops").copy()


def sit() -> pd.DataFrame:
    """SiT (arXiv 2401.08740): the four /2 models with an interpolant objective."""
    return _table("sit").copy()
