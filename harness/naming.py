"""Things by the names that settings give them: an entry of a registry, or a class of the user's own package.

`model.backbone=package.module:Class` names outside code. It is taken by the same interface as what the registry holds,
and the version of its package is part of a trial's identity: nobody has to fork this project to sweep a model of his.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
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
def version(field: str, name: str) -> str:
    """The version of the package that `package.module:Name` lies in: of an installed one `package 1.2`.

    Where the source may change under one version, in an editable install or a module that no package claims, the digest
    of that module's file is part of it: `package 1.2 sha256:0123456789ab`. Raises ConfigError if there is none.
    """
    module = name.partition(":")[0]
    owner = _owner(module)
    if owner and not _is_editable(owner):
        return f"{owner} {importlib.metadata.version(owner)}"
    told = f"{owner} {importlib.metadata.version(owner)}" if owner else module
    try:
        source = Path(importlib.util.find_spec(module).origin).read_bytes()
    except Exception as error:  # there is no such module, or it has no file; its package's own code may raise anything
        reason = "no such module" if isinstance(error, AttributeError | TypeError) else first_line(error)
        raise ConfigError(
            f"{field}: '{name}' cannot be found ({reason}); allowed: package.module:Name of an installed package"
        ) from None
    return f"{told} sha256:{hashlib.sha256(source).hexdigest()[:12]}"


def _owner(module: str) -> str | None:
    """The installed distribution of a module: of several that share its top package, the one with its file."""
    owners = sorted(set(importlib.metadata.packages_distributions().get(module.partition(".")[0], [])))
    if len(owners) > 1:
        path = module.replace(".", "/")
        own = [
            owner for owner in owners
            if any(str(file).startswith((f"{path}.", f"{path}/")) for file in importlib.metadata.files(owner) or ())
        ]  # fmt: skip
        owners = own or owners
    return owners[0] if owners else None


def _is_editable(owner: str) -> bool:
    told = importlib.metadata.distribution(owner).read_text("direct_url.json")
    return bool(told and json.loads(told).get("dir_info", {}).get("editable"))
