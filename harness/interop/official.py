"""Checkpoints in the layout of the paper's own code (github.com/facebookresearch/DiT), by their published names.

The two networks compute the same, with four differences in what is stored: patches are embedded by a convolution, the
positions are saved, the heads are not, and learned covariance shows only in the number of channels out.
"""

import argparse
import math
import pickle
from pathlib import Path

import torch
from torch import Tensor

from harness.config import SIZES
from harness.errors import ConfigError, first_line
from harness.models.layers import positions
from harness.training import checkpoint

from . import names
from .network import Network, model_of

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
EMBED, POSITIONS = "x_embedder.proj.weight", "pos_embed"

# Their training averages the positions along with the weights, which leaves rounding errors of about 1e-4 in a released
# checkpoint. Positions in another order differ by about 1.
NEAR = 1e-2


def load_official(path: Path | str, heads: int = 0) -> Network:
    """The network of a checkpoint: a plain state dict, or one under `ema` or `model` as their training writes it.

    Attention heads cannot be told from weights: without `heads` they are those of the named size that has this depth
    and width. Images are taken to be latents, and the schedule the paper's.
    Raises ConfigError, one line, for a file in another layout or with positions other than ours.
    """
    path = Path(path)
    state = _state(path)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")}) or 1
    table = _table(depth)
    names.require(state, {*table.values(), POSITIONS}, f"{path}: not the layout of the official DiT: it")
    width, channels, patch, _ = state[EMBED].shape
    grid = math.isqrt(state[POSITIONS].shape[1])
    _check_positions(path, state[POSITIONS], positions(width, grid)[None])
    model = model_of(
        channels, len(state["final_layer.linear.bias"]) // patch**2, depth=depth, width=width,
        heads=heads or _heads(depth, width), patch=patch, mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
    )  # fmt: skip
    weights = {ours: state[theirs].float() for ours, theirs in table.items()}
    weights["embed.weight"] = names.from_convolution(weights["embed.weight"])
    return Network(model, channels, grid * patch, len(weights["label.weight"]) - 1, weights)


def save_official(network: Network, folder: Path | str) -> Path:
    """Write a plain state dict into the folder, as `DiT-B-4-32x32.pt` where the side is 32; returns the file.

    Raises ConfigError for a model that is not adaLN-Zero.
    """
    network.require("the official DiT", backbone="dit", conditioning="adaLN-Zero")
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
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from None
    state = next((saved[key] for key in ("ema", "model") if key in saved), saved)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _check_positions(path: Path, found: Tensor, needed: Tensor) -> None:
    if found.shape != needed.shape:
        raise ConfigError(f"{path}: {POSITIONS} is {(*found.shape,)}; allowed: (1, G*G, D), here {(*needed.shape,)}")
    off = (found.float() - needed).abs().max().item()
    if not off < NEAR:  # nan too
        raise ConfigError(
            f"{path}: {POSITIONS} differs by {off:.2g} from the fixed 2-D sin-cos positions, columns first; allowed: "
            f"those, within {NEAR}"
        )


def _heads(depth: int, width: int) -> int:
    known = [row[2] for row in SIZES.values() if row[:2] == (depth, width)]
    if not known:
        raise ConfigError(f"model.heads: no named size has {depth} blocks of width {width}; give heads=, as trained")
    return known[0]
