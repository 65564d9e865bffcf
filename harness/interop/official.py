"""Checkpoints in the layout of the paper's own code (github.com/facebookresearch/DiT), by their published names.

The two networks compute the same, with four differences in what is stored: patches are embedded by a convolution, the
positions are saved, the heads are not, and learned covariance shows only in the number of channels out. The file holds
weights alone: what else there is to know of a network, its reader takes for granted.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import SIZES, Diffusion
from harness.errors import ConfigError, first_line
from harness.models.layers import positions
from harness.training import checkpoint

from . import names
from .network import Network, model_of, objective_of

OUTSIDE = {
    "embed":           "x_embedder.proj",
    "time.mlp.0":      "t_embedder.mlp.0",
    "time.mlp.2":      "t_embedder.mlp.2",
    "label":           "y_embedder.embedding_table",
    "head.modulation": "final_layer.adaLN_modulation.1",
    "head.linear":     "final_layer.linear",
}  # fmt: skip
BLOCK = {
    "modulation":    "adaLN_modulation.1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.0":         "mlp.fc1",
    "mlp.2":         "mlp.fc2",
}  # fmt: skip
EMBED, POSITIONS, LABELS = "x_embedder.proj.weight", "pos_embed", "y_embedder.embedding_table.weight"
HEAD, HIDDEN = "final_layer.linear.bias", "blocks.0.mlp.fc1.bias"
DIMENSIONS = {EMBED: 4, POSITIONS: 3, LABELS: 2, HEAD: 1, HIDDEN: 1}  # of what a network's shape is read from

OBJECTIVES = ("ddpm", "noise")
KNOWN = {"model.backbone": ("dit",), "model.conditioning": ("adaLN-Zero",), "diffusion.objective": OBJECTIVES}

# Numbers of classes so common that a table of so many rows is hardly one of a class less and the null class.
USUAL = (10, 100, 1000)

# Their training averages the positions along with the weights, which leaves rounding errors of about 1e-4 in a released
# checkpoint. Positions in another order differ by about 1.
NEAR = 1e-2


def load_official(path: Path | str, heads: int = 0, classes: int = 0) -> Network:
    """The network of a checkpoint: a plain state dict, or one under `ema` or `model` as their training writes it.

    Attention heads cannot be told from weights: without `heads` they are those of the named size that has this depth
    and width. Nor can the null class: without `classes` the last row of the label table is taken for it, unless there
    are as many rows as a usual dataset has classes. Images are taken to be latents, and the schedule the paper's.
    Raises ConfigError, one line, for a file in another layout, with positions other than ours, or without a null class.
    """
    path = Path(path)
    state = _state(path)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")}) or 1
    table = _table(depth)
    names.require(state, {*table.values(), POSITIONS}, f"{path}: not the layout of the official DiT: it")
    for name, count in DIMENSIONS.items():
        if state[name].dim() != count or not state[name].numel():
            raise ConfigError(f"{path}: {name} is {(*state[name].shape,)}; allowed: {count} dimensions, none of them 0")
    width, channels, patch, _ = state[EMBED].shape
    grid = math.isqrt(state[POSITIONS].shape[1])
    _check_positions(path, state[POSITIONS], positions(width, grid)[None])
    objective = objective_of(OBJECTIVES, channels, len(state[HEAD]) // patch**2)
    model = model_of(
        depth=depth, width=width, heads=heads or _heads(depth, width), patch=patch, mlp_ratio=len(state[HIDDEN]) / width
    )
    weights = {ours: state[theirs].float() for ours, theirs in table.items()}
    weights["embed.weight"] = names.from_convolution(weights["embed.weight"])
    classes = _classes(path, len(state[LABELS]), classes)
    return Network(model, channels, grid * patch, classes, weights, Diffusion(objective=objective))


def save_official(network: Network, folder: Path | str) -> Path:
    """Write a plain state dict into the folder, as `DiT-B-4-32x32.pt` where the side is 32; returns the file.

    Names of classes, and whether images are pixels, are not in it.
    Raises ConfigError for a model or objective that it has no place for, or a schedule or heads that `load_official`
    would not come back with.
    """
    network.require("the official DiT", KNOWN)
    _check_kept(network)
    model = network.model
    state = {theirs: network.weights[ours] for ours, theirs in _table(model.depth).items()}
    state[EMBED] = names.to_convolution(state[EMBED], model.patch)
    state[POSITIONS] = positions(model.width, network.side // model.patch)[None]
    path = Path(folder) / f"{model.name.replace('/', '-')}-{network.side}x{network.side}.pt"
    checkpoint.save(path, state)
    return path


def _table(depth: int) -> dict[str, str]:
    return names.of_weights(names.of_layers(OUTSIDE, BLOCK, "blocks", depth))


def _state(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # their training keeps its options in the file
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from None
    except Exception:  # whatever else its bytes make the reader raise; what it says then is of its own insides
        why = "it is not what torch.save writes of tensors and plain values"
        raise ConfigError(f"{path}: cannot be read as a checkpoint ({why})") from None
    state = next((saved[key] for key in ("ema", "model") if key in saved), saved) if isinstance(saved, dict) else saved
    flaw = _flaw(state)
    if flaw:
        raise ConfigError(f"{path}: no state dict ({flaw}); allowed: tensors by name, maybe under 'ema' or 'model'")
    return state


def _flaw(state: Any) -> str:
    """Why it is no state dict; empty if it is one."""
    if not isinstance(state, dict):
        return f"it is a {type(state).__name__}"
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            return f"{name!r} is a {type(value).__name__}"
    return "" if state else "it is empty"


def _check_positions(path: Path, found: Tensor, needed: Tensor) -> None:
    if found.shape != needed.shape:
        raise ConfigError(f"{path}: {POSITIONS} is {(*found.shape,)}; allowed: (1, G*G, D), here {(*needed.shape,)}")
    off = (found.float() - needed).abs().max().item()
    if not off < NEAR:  # nan too
        raise ConfigError(
            f"{path}: {POSITIONS} differs by {off:.2g} from the fixed 2-D sin-cos positions, columns first; allowed: "
            f"those, within {NEAR}"
        )


def _classes(path: Path, rows: int, classes: int) -> int:
    """How many classes a label table of so many rows is for, with the null class in its last row."""
    if classes and rows != classes + 1:
        why = ": no null class, as after training without class dropout" if rows == classes else ""
        raise ConfigError(f"{path}: {LABELS} has {rows} rows for {classes} classes{why}; allowed: {classes + 1}")
    if not classes and rows in USUAL:
        raise ConfigError(
            f"{path}: {LABELS} has {rows} rows, as of {rows} classes without a null class, which has no place here; "
            f"allowed: any other number, or classes={rows - 1} if the last row is the null class"
        )
    if rows < 2:
        raise ConfigError(f"{path}: {LABELS} has {rows} row; allowed: one for each class, and the null class's")
    return rows - 1


def _heads(depth: int, width: int) -> int:
    known = _named(depth, width)
    if not known:
        raise ConfigError(f"model.heads: no named size has {depth} blocks of width {width}; give heads=, as trained")
    return known


def _named(depth: int, width: int) -> int:
    """Heads of the named size of this depth and width; 0 if there is none."""
    return next((row[2] for row in SIZES.values() if row[:2] == (depth, width)), 0)


def _check_kept(network: Network) -> None:
    lost = "would be lost, since the official layout holds weights alone"
    taken = Diffusion(objective=network.diffusion.objective)
    for name in Diffusion.model_fields:
        value, only = getattr(network.diffusion, name), getattr(taken, name)
        if value != only:
            raise ConfigError(f"diffusion.{name}: {value!r} {lost}; allowed: {only!r}")
    model = network.model
    known, shape = _named(model.depth, model.width), f"of depth {model.depth} and width {model.width}"
    if model.heads != known:
        allowed = f"{known}, as in the named size {shape}" if known else f"a named size, and none is {shape}"
        raise ConfigError(f"model.heads: {model.heads} {lost}; allowed: {allowed}")
