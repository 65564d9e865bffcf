"""Trial ids of every sweep at every scale, as they were: a run is found by its id, so one that moves loses its runs.

Where a changed default or a raised `config.VERSION` moves them on purpose, the file is written anew:

    python tests/test_golden.py
"""

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import sweeps
from harness.config import SCALES

FILE = Path(__file__).parent / "golden" / "ids.json"
NAMES = sorted(module.name for module in pkgutil.iter_modules(sweeps.__path__) if not module.name.startswith("_"))


def ids(sweep: str, scale: str) -> str:
    return " ".join(trial.id for trial in importlib.import_module(f"sweeps.{sweep}").trials(scale))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sweep", NAMES)
def test_every_trial_is_still_found_by_its_id(sweep, scale):
    assert ids(sweep, scale) == json.loads(FILE.read_text()).get(f"{sweep} {scale}")


if __name__ == "__main__":
    found = {f"{sweep} {scale}": ids(sweep, scale) for sweep in NAMES for scale in SCALES}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
