"""A finished run as a network, from the files that it left: its EMA weights and the settings they were trained with."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.config import make
from harness.data import registry as datasets
from harness.errors import ConfigError, first_line

from .network import Network


def load_run(folder: Path | str, data_folder: Path | str = "data") -> Network:
    """The EMA network of a run, from its artifact folder `weights`: ema.safetensors and config.json.

    `data_folder` is where the run's dataset lies, if it is one of latents.
    Raises ConfigError if the files are not there, or not of each other.
    """
    folder = Path(folder)
    try:
        trial = make(dict(json.loads((folder / "config.json").read_text())))
        weights = load_file(folder / "ema.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: not the weights of a run ({first_line(error)})") from None
    name = trial.data.dataset
    datasets.discover(name, data_folder)
    seen = datasets.lookup(name)
    coder = Path(data_folder) / seen.name / "autoencoder"
    return Network(
        trial.model, seen.channels, seen.side, seen.classes, weights, trial.diffusion, seen.bounded, seen.class_names,
        coder if coder.is_dir() else None,
    )  # fmt: skip
