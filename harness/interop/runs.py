"""A finished run as a network, and on to a format by its name."""

from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness import data
from harness.config import ConfigError, Trial, choose, first_line

from .diffusers import save_diffusers
from .network import Network
from .official import save_official

FORMATS = {"diffusers": save_diffusers, "official": save_official}  # name -> function(network, folder) -> what it made


def load_run(folder: Path | str, data_folder: Path | str = "data") -> Network:
    """The EMA network of a run, from its artifact folder `weights`: ema.safetensors and config.json.

    `data_folder` is where the run's dataset lies, if it is one of latents.
    Raises ConfigError if the files are not there, or not of each other.
    """
    folder = Path(folder)
    try:
        trial = Trial.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "ema.safetensors")
    except (OSError, ValidationError, SafetensorError) as error:
        raise ConfigError(f"{folder}: not the weights of a run ({first_line(error)})") from None
    name = trial.data.dataset
    data.discover(name, data_folder)
    seen, coder = data.lookup(name), Path(data_folder) / name / "autoencoder"
    return Network(
        trial.model, seen.channels, seen.side, seen.classes, weights, trial.diffusion, seen.bounded, seen.class_names,
        coder if coder.is_dir() else None,
    )  # fmt: skip


def export(network: Network, to: Path | str, form: str) -> Path:
    """Write a network into the folder `to` in a format of FORMATS; returns the file or folder made.

    Raises ConfigError for an unknown format, a network that has no place in it, or a folder that cannot be written.
    """
    write = choose("format", form, FORMATS)
    try:
        return write(network, to)
    except OSError as error:
        raise ConfigError(f"--to: '{to}' cannot be written ({error.strerror or error})") from None
