"""Things by the names that settings give them: an entry of a registry, or a class of the user's own package.

`model.backbone=package.module:Class` names outside code. It is taken by the same interface as what the registry holds,
and the version of its package is part of a trial's identity: nobody has to fork this project to sweep a model of his.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import ConfigError, first_line

T = TypeVar("T")


def choose(field: str, name: str, known: Mapping[str, T], else_: str = "") -> T:
    """The entry of a registry that a field names. Raises ConfigError listing what the registry holds, and `else_`."""
    if name not in known:
        raise ConfigError(f"{field}: unknown {field.split('.')[-1]} '{name}'; allowed: {', '.join(known)}{else_}")
    return known[name]


def find(field: str, name: str, known: Mapping[str, T]) -> T | Any:
    """The same, or what `package.module:Name` names of an installed package.

    Raises ConfigError if the registry does not hold it, or it cannot be imported.
    """
    if not is_outside(name):
        return choose(field, name, known, ", or your own as package.module:Name")
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever its own code raises
        raise ConfigError(
            f"{field}: '{name}' cannot be imported ({first_line(error)}); allowed: package.module:Name of an installed "
            "package"
        ) from None


def is_outside(name: str) -> bool:
    """Does the name mean code of the user's own?"""
    return ":" in name


@cache
def version(name: str) -> str:
    """The version of the package that `package.module:Name` lies in: what an installed one says, as `package 1.2`.

    A module that no installed package claims has the digest of its source instead, as `module sha256:0123456789ab`.
    Raises ConfigError if there is no such module.
    """
    module = name.partition(":")[0]
    top = module.partition(".")[0]
    owners = importlib.metadata.packages_distributions().get(top, [])
    if owners:
        return f"{owners[0]} {importlib.metadata.version(owners[0])}"
    try:
        found = importlib.util.find_spec(module)
        source = Path(found.origin).read_bytes()
    except Exception as error:
        raise ConfigError(
            f"'{name}' cannot be found ({first_line(error)}); allowed: package.module:Name of an installed package"
        ) from None
    return f"{module} sha256:{hashlib.sha256(source).hexdigest()[:12]}"
