"""What made a run: commit, versions, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("torch", "ray", "mlflow", "torch-fidelity", "timm", "pandas", "numpy")


def provenance() -> dict[str, str]:
    """Git commit (with '+' if the tree was changed), library versions and machine, as tags."""
    tags = {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}
    tags |= {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    root = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
        tags["git_commit"] = head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        pass  # not a checkout: absent, never a plausible default
    return tags
