"""Things by the names that settings give them."""

from collections.abc import Mapping
from typing import TypeVar

from harness.errors import ConfigError

T = TypeVar("T")


def choose(field: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of a registry that a field names. Raises ConfigError listing what the registry holds."""
    if name not in known:
        raise ConfigError(f"{field}: unknown {field.split('.')[-1]} '{name}'; allowed: {', '.join(known)}")
    return known[name]
