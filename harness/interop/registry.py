"""Formats for other programs by name: the door of this room. Another one is a file here and a line of `FORMATS`."""

from pathlib import Path

from harness.errors import ConfigError
from harness.naming import choose

from .diffusers import save_diffusers
from .network import Network
from .official import save_official

FORMATS = {"diffusers": save_diffusers, "official": save_official}  # name -> function(network, folder) -> what it made


def export(network: Network, to: Path | str, form: str) -> Path:
    """Write a network into the folder `to` in a format of FORMATS; returns the file or folder made.

    Raises ConfigError for an unknown format, a network that has no place in it, or a folder that cannot be written.
    """
    write = choose("format", form, FORMATS)
    try:
        return write(network, to)
    except OSError as error:
        raise ConfigError(f"--to: '{to}' cannot be written ({error.strerror or error})") from None
