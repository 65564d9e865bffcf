"""What the README shows is run: a backbone of one's own, a sweep."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.cost import cost
from harness.data import registry as datasets
from harness.tracking.sinks import Memory
from harness.trial import check, facts, run

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


def block(of: str) -> str:
    (found,) = [text for text in BLOCKS if of in text]
    return found


@pytest.fixture
def mixer(tmp_path, monkeypatch):
    """The README's backbone as a module that can be imported; its name for `model.backbone`."""
    (tmp_path / "my_mixer.py").write_text(block("class Mixer"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_mixer:Mixer"
    sys.modules.pop("my_mixer", None)


def test_a_backbone_of_one_s_own_is_swept_like_any_other(tiny, place, mixer):
    assert len(block("class Mixer").splitlines()) <= 30
    cell, sink = tiny(model__backbone=mixer), Memory()
    check(cell)
    assert cell.name.startswith("Mixer-1x32x2/4") and cost(cell).gflops > 0
    assert cell.outside["model.backbone.version"].startswith("my_mixer sha256:")
    assert facts(cell, "digest", "cpu")["model.gflops"] == cost(cell).gflops
    run(cell, sink, place, "cpu")
    (_, first), *_, (_, last) = [(seen, metrics) for seen, metrics in sink.metrics if "loss" in metrics]
    assert last["loss"] < first["loss"]
    assert any("fid" in metrics for _, metrics in sink.metrics)


def test_an_objective_and_a_dataset_of_one_s_own(tiny, place, tmp_path, monkeypatch):
    (tmp_path / "my_aims.py").write_text(block("class Noisier"))
    (tmp_path / "my_pets.py").write_text(block("PETS ="))
    monkeypatch.syspath_prepend(str(tmp_path))
    place.data.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        rng = np.random.default_rng(count)
        np.save(place.data / f"{split}.npy", rng.integers(0, 256, (count, 3, 32, 32), np.uint8))
        np.save(place.data / f"{split}-y.npy", rng.integers(0, 37, count))
    cell, sink = (
        tiny(diffusion__objective="my_aims:Noisier", data__dataset="my_pets:PETS", evaluate__sampler="euler"),
        Memory(),
    )
    check(cell)
    run(cell, sink, place, "cpu")
    assert set(cell.outside) == {"diffusion.objective.version", "data.dataset.version"}
    assert (place.data / "my-pets.parquet").exists()
    assert datasets.flips(cell.data)  # as the paper does, where a dataset says nothing
    assert any("fid" in metrics for _, metrics in sink.metrics)


def test_the_readme_s_sweep_is_one(tmp_path):
    path = tmp_path / "heads.py"
    path.write_text(block("def trials"))
    spec = importlib.util.spec_from_file_location("heads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [trial.model.heads for trial in module.trials("cpu")] == [1, 2, 4, 8]
