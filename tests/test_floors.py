"""The floor plan: an import only ever points down. Every import statement of the project is parsed and held to it.

Rooms are held and not files: a new file in a room needs no line here.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = ("harness", "sweeps", "analysis")

# The floor of every room, and of the files that stand between rooms. What a room imports of others lies lower.
FLOORS = {
    "harness.errors": 0,
    "harness.record": 0,
    "harness.progress": 0,
    "harness.naming": 1,
    "harness.config": 2,
    "harness.hardware": 3,
    "harness.streams": 3,
    "harness.data": 4,
    "harness.diffusion": 4,
    "harness.models": 4,
    "harness.tracking": 4,
    "harness.training": 5,
    "harness.cost": 5,
    "harness.metrics": 6,
    "harness.estimate": 6,
    "harness.interop": 6,
    "harness.trial": 7,
    "harness.launch": 8,
    "sweeps": 8,
    "sweeps.__main__": 11,
    "analysis.paper": 5,
    "analysis.fit": 5,
    "analysis.frames": 5,
    "analysis.pull": 6,
    "analysis.words": 6,
    "analysis.figures": 7,
    "analysis.claims": 8,
    "analysis.headline": 8,
    "analysis.tables": 9,
    "analysis.sections": 9,
    "analysis.report": 10,
}

# Rooms with a registry on top, and what stands at their bottom: all that others may import of them.
DOORS = {
    "harness.data": {"registry", "base", "files", "autoencoder"},
    "harness.diffusion": {"base", "process", "guidance", "objectives", "samplers"},
    "harness.diffusion.objectives": {"registry", "base"},
    "harness.diffusion.samplers": {"registry", "base"},
    "harness.models": {"registry", "layers", "conditioning"},
    "harness.metrics": {"registry", "base", "reference"},
    "harness.metrics.extractors": {"registry", "base"},
    "harness.interop": {"registry"},
}

# A library that only these rooms may import.
OWNERS = {
    "ray": {"harness.launch"},
    "mlflow": {"harness.tracking", "analysis.pull"},
    "torch_fidelity": {"harness.metrics"},
    "timm": {"harness.metrics"},
    "diffusers": {"harness.data", "harness.diffusion", "harness.models", "harness.interop"},
}


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


def longest(module, known):
    """The longest of the known names that the module lies in; None if there is none."""
    return max((name for name in known if is_inside(module, name)), key=len, default=None)


def floor_of(module):
    return FLOORS.get(longest(module, FLOORS))


def room_of(module):
    return longest(module, FLOORS) or module


def is_inside(module, package):
    return module == package or module.startswith(package + ".")


FILES = sorted(path for package in PROJECT for path in (ROOT / package).rglob("*.py"))
EDGES = [(module_of(path), name, f"{path.relative_to(ROOT)}:{line}") for path in FILES for name, line in imports(path)]


def offences(is_wrong):
    return [f"{where} imports {name}" for module, name, where in EDGES if is_wrong(module, name)]


def is_ours(name):
    return name.split(".")[0] in PROJECT


def circles(edges):
    """The modules that reach themselves by imports, by Tarjan's components, as sorted lists."""
    graph = {}
    for one, other in edges:
        graph.setdefault(one, set()).add(other)
        graph.setdefault(other, set())
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            at = stack.index(node)
            part = stack[at:]
            del stack[at:]
            if len(part) > 1 or node in graph[node]:
                found.append(sorted(part))

    for node in list(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def test_there_is_something_to_hold():
    assert ("harness.data.base", "harness.config") not in {(module, name) for module, name, _ in EDGES}
    assert ("harness.training.loop", "harness.data.base") in {(module, name) for module, name, _ in EDGES}


@pytest.mark.parametrize("module", [module_of(p) for p in FILES if p.name != "__init__.py"])
def test_every_file_lies_in_a_room(module):
    assert floor_of(module) is not None, f"{module} lies in no room: put it in one, or give it a floor here"


def test_no_circle_of_imports():
    assert circles((module, name) for module, name, _ in EDGES if is_ours(name)) == []


def test_a_circle_would_be_found():
    assert circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "e")]) == [["a", "b", "c"], ["e"]]
    assert circles([("a", "b"), ("b", "c"), ("a", "c")]) == []


def test_imports_between_rooms_point_down():
    def points_up(module, name):
        apart = is_ours(name) and room_of(name) != room_of(module)
        return apart and (floor_of(name) if floor_of(name) is not None else -1) >= floor_of(module)

    assert not offences(lambda module, name: floor_of(module) is not None and points_up(module, name))


def test_a_room_is_entered_by_its_door():
    """What a registry lists is had from the registry alone: so a further file of its kind is known nowhere else."""

    def passes_by(module, name):
        room = longest(name, DOORS)
        if room is None or name == room or is_inside(module, room):
            return False
        return name.removeprefix(room + ".").split(".")[0] not in DOORS[room]

    assert not offences(passes_by)


@pytest.mark.parametrize("room", DOORS)
def test_every_door_leads_somewhere(room):
    folder = ROOT.joinpath(*room.split("."))
    assert all((folder / f"{name}.py").exists() or (folder / name).is_dir() for name in DOORS[room])


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_one_place(library):
    def astray(module, name):
        return is_inside(name, library) and not any(is_inside(module, owner) for owner in OWNERS[library])

    assert not offences(astray)


def test_the_harness_knows_no_sweep_and_no_analysis():
    assert not offences(
        lambda module, name: is_inside(module, "harness") and (is_inside(name, "sweeps") or is_inside(name, "analysis"))
    )


def test_the_config_knows_no_heavy_library():
    heavy = ("torch", "torchvision", "ray", "mlflow", "pandas", "numpy")
    assert not offences(
        lambda module, name: (floor_of(module) or 9) <= FLOORS["harness.config"] and name.split(".")[0] in heavy
    )


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
        return is_sweep and is_ours(name) and name != "harness.config"

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
    heavy = "{'torch_fidelity', 'timm', 'mlflow', 'ray', 'diffusers'}"
    code = f"import sys, harness.launch.tune; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
