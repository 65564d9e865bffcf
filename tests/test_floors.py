"""The floor plan: an import only ever points down. Every import statement of the project is parsed and held to it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The floor of every module; what lies in a package has the floor of the package. A new file must be given one here.
FLOORS = {
    "harness.config": 0,
    "harness.record": 0,
    "harness.cost": 1,
    "harness.models": 1,
    "harness.diffusion": 1,
    "harness.dpm_solver": 1,
    "harness.frechet": 1,
    "harness.data": 1,
    "harness.pictures": 1,
    "harness.autoencoder": 1,
    "harness.shards": 1,
    "harness.latents": 2,
    "harness.hardware": 1,
    "harness.train": 2,
    "harness.evaluate": 2,
    "harness.bench": 2,
    "harness.extractors": 2,
    "harness.lite0": 2,
    "harness.inception": 2,
    "harness.view": 1,
    "harness.cluster": 1,
    "harness.estimate": 3,
    "harness.checkpoint": 2,
    "harness.ledger": 1,
    "harness.tracking": 2,
    "harness.trial": 3,
    "harness.interop": 3,
    "harness.launch": 4,
    "sweeps.__main__": 5,
    "sweeps": 4,
    "analysis.paper": 3,
    "analysis.pull": 3,
    "analysis.fit": 3,
    "analysis.frames": 3,
    "analysis.words": 4,
    "analysis.figures": 4,
    "analysis.headline": 4,
    "analysis.claims": 4,
    "analysis.tables": 4,
    "analysis.sections": 4,
    "analysis.report": 5,
}

# A library that only these modules may import.
OWNERS = {
    "ray": {"harness.cluster", "harness.launch"},
    "mlflow": {"harness.ledger", "harness.tracking", "analysis.pull"},
    "torch_fidelity": {"harness.bench", "harness.evaluate", "harness.extractors", "harness.lite0", "harness.inception"},
    "diffusers": {
        "harness.autoencoder",
        "harness.models.unet",
        "harness.dpm_solver",
        "harness.interop.diffusers",
        "harness.interop.identity",
        "harness.interop.pipeline",
    },
}

PROJECT = ("harness", "sweeps", "analysis")


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """(module, line) of every import in a file, inside functions too; a name of a package counts as its module."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            base = ".".join(base) if node.level else node.module
            for alias in node.names:
                inner = ROOT.joinpath(*base.split("."), alias.name)
                yield (
                    (f"{base}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").exists() else base),
                    node.lineno,
                )


def floor_of(module):
    parts = module.split(".")
    return next((FLOORS[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in FLOORS), None)


def is_inside(module, package):
    return module == package or module.startswith(package + ".")


FILES = sorted(path for package in PROJECT for path in (ROOT / package).rglob("*.py"))
EDGES = [(module_of(path), name, f"{path.relative_to(ROOT)}:{line}") for path in FILES for name, line in imports(path)]


def offences(is_wrong):
    return [f"{where} imports {name}" for module, name, where in EDGES if is_wrong(module, name)]


def test_there_is_something_to_hold():
    assert ("harness.data", "harness.config") in {(module, name) for module, name, _ in EDGES}


@pytest.mark.parametrize("module", [module_of(p) for p in FILES if p.name != "__init__.py"])
def test_every_module_has_a_floor(module):
    assert floor_of(module) is not None, f"give {module} a floor in {Path(__file__).name}"


def test_imports_point_down():
    """Same floor: allowed, since ast cannot see a cycle there but Python can."""

    def points_up(module, name):
        return name.split(".")[0] in PROJECT and (floor_of(name) or 0) > (floor_of(module) or 0)

    assert not offences(points_up)


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_one_place(library):
    assert not offences(lambda module, name: is_inside(name, library) and module not in OWNERS[library])


def test_the_harness_knows_no_sweep_and_no_analysis():
    assert not offences(
        lambda module, name: is_inside(module, "harness") and (is_inside(name, "sweeps") or is_inside(name, "analysis"))
    )


def test_the_lowest_floor_knows_no_heavy_library():
    heavy = ("torch", "torchvision", "ray", "mlflow", "pandas", "numpy")
    assert not offences(lambda module, name: floor_of(module) == 0 and name.split(".")[0] in heavy)


def test_analysis_knows_no_torch():
    torches = ("torch", "torchvision", "torch_fidelity", "timm", "diffusers")
    assert not offences(lambda module, name: is_inside(module, "analysis") and name.split(".")[0] in torches)


def test_analysis_reads_of_the_harness_only_its_contract():
    allowed = ("harness.record", "harness.config")
    assert not offences(
        lambda module, name: is_inside(module, "analysis") and is_inside(name, "harness") and name not in allowed
    )


def test_a_sweep_knows_the_config_alone():
    """`sweeps/<name>.py` is an experiment's difference and nothing else; `__main__` is the command line."""

    def reaches(module, name):
        is_sweep = is_inside(module, "sweeps") and module != "sweeps.__main__"
        return is_sweep and name.split(".")[0] in PROJECT and name != "harness.config"

    assert not offences(reaches)


def test_the_parser_sees_every_way_to_import(tmp_path, monkeypatch):
    """Inside a function, relative, `from package import module`, and a plain name of a module."""
    (tmp_path / "harness" / "models").mkdir(parents=True)
    (tmp_path / "harness" / "train.py").touch()
    file = tmp_path / "harness" / "models" / "dit.py"
    file.write_text(
        "import ray.tune as tune\nfrom harness import train\nfrom . import dit\nfrom ..train import steps\n"
        "def f():\n    import mlflow\n    from .layers import Norm\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert {name for name, _ in imports(file)} == {
        "ray.tune", "harness.train", "harness.models.dit", "mlflow", "harness.models.layers",
    }  # fmt: skip
    assert module_of(file) == "harness.models.dit"


def test_a_trial_begins_without_what_only_its_evaluations_need():
    """Imports are most of the time from a launch to its first training step."""
    code = "import sys, harness.launch; print(*sorted({'torch_fidelity', 'timm', 'mlflow', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
