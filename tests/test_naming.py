"""Things by name: entries of a registry, and the user's own code, whose version is part of what a trial is."""

import hashlib
import importlib.metadata
import itertools
import os
import subprocess
import sys

import pytest
import torch

from harness import config, naming, record
from harness.config import change, make
from harness.cost import cost
from harness.data import registry as datasets
from harness.diffusion.objectives import registry as objectives
from harness.errors import ConfigError
from harness.models.registry import build
from harness.naming import choose, find, is_outside, version
from harness.tracking.sinks import Memory
from harness.tracking.store import Store
from harness.training.loop import draw, steps
from harness.training.state import State
from harness.trial import check, facts, run

KNOWN = {"one": 1, "two": 2}
BACKBONE = '''
import torch
from torch import nn

class Tiny(nn.Module):
    """Two convolutions; timestep and label are added in between."""

    def __init__(self, model, channels, side, classes, outputs):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(channels, model.width, 3, padding=1), nn.Conv2d(model.width, outputs, 1)
        self.label = nn.Embedding(classes + 1, model.width)

    def forward(self, x, t, y):
        told = self.label(y) + torch.cos(t[:, None].to(self.label.weight) / 100)
        return self.leave(torch.relu(self.enter(x.to(self.enter.weight.dtype)) + told[:, :, None, None]))

    def initialise(self, seed):
        rng = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.normal_(p, std=0.05, generator=rng)
        return self
'''
OBJECTIVE = """
import torch
from harness.diffusion.objectives.flow import Flow

class Late(Flow):
    own = ("logit-normal", 2.0, 0.5)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(name, source)` writes a module of the user's own that can be imported until the test is over."""
    folder, written = tmp_path / "own", []
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(name, source):
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        for package in path.relative_to(folder).parents[:-1]:
            (folder / package).mkdir(exist_ok=True)
            (folder / package / "__init__.py").touch()
        path.write_text(source)
        written.append(name.split(".")[0])
        forget()
        return path

    def forget():
        """What a new process would not know."""
        version.cache_clear()
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] in written]:
            del sys.modules[loaded]
        importlib.invalidate_caches()

    yield write
    forget()


# Entries and code by name


def test_a_registry_s_entry_is_found_by_its_name():
    assert (choose("model.size", "two", KNOWN), find("model.size", "one", KNOWN)) == (2, 1)
    assert not is_outside("one") and is_outside("package.module:Name")


def test_outside_code_is_found_by_module_and_name(own):
    own("mine.deep", "class Net: pass\nNUMBER = 7")
    from_package = find("model.backbone", "mine.deep:Net", KNOWN)
    assert from_package.__name__ == "Net" and from_package.__module__ == "mine.deep"
    assert find("model.backbone", "mine.deep:NUMBER", KNOWN) == 7
    assert find("model.backbone", "json:JSONDecoder", KNOWN).__module__ == "json.decoder"


OUTSIDE = "; allowed: package.module:Name of an installed package"
ERRORS = {
    "unknown": ("three", "model.size: unknown size 'three'; allowed: one, two, or your own as package.module:Name"),
    "a path": ("mine.deep", "model.size: unknown size 'mine.deep'; allowed: one, two, "),
    "no module": ("nowhere:Net", f"model.size: 'nowhere:Net' cannot be imported (No module named 'nowhere'){OUTSIDE}"),
    "no name": (
        "mine.deep:Other",
        f"model.size: 'mine.deep:Other' cannot be imported (module 'mine.deep' has no attribute 'Other'){OUTSIDE}",
    ),
    "nothing": ("mine.deep:", "model.size: 'mine.deep:' cannot be imported (module 'mine.deep' has no attribute '')"),
    "no module's name": (":Net", "model.size: ':Net' cannot be imported (Empty module name)"),
    "raises": ("mine.bad:Net", f"model.size: 'mine.bad:Net' cannot be imported (first){OUTSIDE}"),
    "raises without a word": ("mine.mute:Net", f"model.size: 'mine.mute:Net' cannot be imported (OSError){OUTSIDE}"),
    "does not parse": ("mine.torn:Net", "model.size: 'mine.torn:Net' cannot be imported ('(' was never closed"),
}


@pytest.mark.parametrize(("name", "message"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_found_is_said_in_one_line(own, name, message):
    own("mine.deep", "class Net: pass")
    own("mine.bad", "raise RuntimeError('first\\nsecond')")
    own("mine.mute", "raise OSError")
    own("mine.torn", "class Net(")
    with pytest.raises(ConfigError) as caught:
        find("model.size", name, KNOWN)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_registry_that_takes_no_outside_code_does_not_offer_it():
    with pytest.raises(ConfigError, match=r"^evaluate\.sampler: unknown sampler 'three'; allowed: one, two$"):
        choose("evaluate.sampler", "three", KNOWN)


# Versions


def test_an_installed_package_has_its_version():
    assert version("model.backbone", "numpy:ndarray") == f"numpy {importlib.metadata.version('numpy')}"
    assert version("model.backbone", "torch.nn:Module") == f"torch {importlib.metadata.version('torch')}"
    assert version("model.backbone", "PIL.Image:Image").startswith("pillow ")  # named otherwise than what is imported


def test_a_bare_module_has_the_digest_of_its_source(own):
    path = own("mine.deep", "class Net: pass")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert (
        version("model.backbone", "mine.deep:Net")
        == version("model.backbone", "mine.deep:Other")
        == f"mine.deep sha256:{digest}"
    )
    own("mine.deep", "class Net: pass  # changed")
    assert version("model.backbone", "mine.deep:Net") not in (
        f"mine.deep sha256:{digest}",
        version("model.backbone", "mine:Net"),
    )


@pytest.mark.parametrize("name", ["nowhere:Net", "nowhere.deep:Net", "mine.none:Net", "sys:version", ":Net"])
def test_what_has_no_version_is_said_in_one_line(own, name):
    own("mine.deep", "class Net: pass")
    with pytest.raises(ConfigError, match=f"^model.backbone: '{name}' cannot be found .*{OUTSIDE}$") as caught:
        version("model.backbone", name)
    assert "\n" not in str(caught.value)


# What a trial is


def trial(**fields):
    return change(make({"model.size": "1x32x2", "model.patch": 4}), **fields)


def test_the_version_of_the_code_is_part_of_every_identity(monkeypatch):
    monkeypatch.setattr(config, "VERSION", 7)
    ids = trial().id, trial().training_id
    monkeypatch.setattr(config, "VERSION", 8)
    assert not set(ids) & {trial().id, trial().training_id}
    monkeypatch.setattr(config, "VERSION", 7)
    assert ids == (trial().id, trial().training_id)


@pytest.mark.parametrize("field", ["model.backbone", "diffusion.objective", "data.dataset"])
def test_outside_code_is_part_of_a_trial_by_its_version(own, field):
    """In one process and in others; whoever changes the source has another experiment."""
    fields = {field.replace(".", "__"): "mine:Net"}
    path = own("mine", "class Net: pass")
    first = trial(**fields)
    assert first.outside == {f"{field}.version": version("model.backbone", "mine:Net")}
    code = f"from harness.config import make; t = make({first.flat!r}); print(t.id, t.training_id)"

    def elsewhere():
        paths = os.pathsep.join([str(path.parent), *sys.path])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": paths})
        assert not done.returncode, done.stderr
        return done.stdout.split()

    ids = [first.id, first.training_id]
    assert elsewhere() == elsewhere() == ids
    own("mine", "class Net:\n    pass")
    other = trial(**fields)
    assert [other.id, other.training_id] == elsewhere()
    assert not {other.id, other.training_id} & set(ids)
    own("mine", "class Net: pass")
    assert trial(**fields).id == first.id


def test_a_newer_package_is_another_experiment(monkeypatch):
    ids = set()
    for number in ("1.0", "1.1"):
        version.cache_clear()
        monkeypatch.setattr(importlib.metadata, "version", lambda name, number=number: number)
        cell = trial(model__backbone="numpy:ndarray")
        assert cell.outside == {"model.backbone.version": f"numpy {number}"}
        ids.add(cell.id)
    version.cache_clear()
    assert len(ids) == 2


def test_a_trial_of_this_project_alone_asks_for_no_version(monkeypatch):
    monkeypatch.setattr(naming, "version", None)
    assert trial().outside == {} and trial(diffusion__objective="flow").outside == {}


# Whole trials of outside code


def test_an_outside_backbone_is_built_priced_named_and_trained(own, tiny, tmp_path):
    own("mine.nets", BACKBONE)
    cell = tiny(model__backbone="mine.nets:Tiny", train__images=100 * 8, model__patch=1, train__lr=1e-2)
    check(cell)
    assert cell.name == "Tiny-1x32x2 seed 0"
    assert facts(cell, "digest", "cpu")["model.name"] == "Tiny-1x32x2"
    # the convolutions at 16 x 16, on 1 channel in and 2 out
    assert cost(cell).gflops * 1e9 == 16**2 * (9 * 32 + 32 * 2)
    assert cost(cell).params == 9 * 32 + 32 + 32 * 2 + 2 + 4 * 32
    images = datasets.load("tiny", "train", tmp_path)
    state = State(build(cell.model, 1, 16, 3, 2, seed=0), cell, "cpu", torch.float32)
    mse = [step.mse.item() for step in steps(state, cell, images, 3)]
    assert len(mse) == 100 and sum(mse[-10:]) / 10 < 0.7 * mse[0]


def test_an_outside_backbone_without_initialise_is_made_from_the_seed_all_the_same(own):
    own("mine.nets", BACKBONE[: BACKBONE.index("    def initialise")])
    model = trial(model__backbone="mine.nets:Tiny").model
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (build(model, 1, 16, 3, 2, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first.values(), again.values()))
    assert not any(map(torch.equal, first.values(), other.values()))


def test_an_outside_backbone_goes_through_a_whole_trial(own, tiny, place):
    own("mine.nets", BACKBONE)
    sink = Memory()
    cell = tiny(model__backbone="mine.nets:Tiny", evaluate__points=1, diffusion__objective="flow",
                evaluate__sampler="heun", model__patch=1)  # fmt: skip
    run(cell, sink, place, "cpu")
    assert sink.metrics[-1][1]["fid"] > 0 and "diffusion_loss" in sink.metrics[-1][1]


def test_an_outside_objective_draws_its_own_times_and_trains(own, tiny, tmp_path):
    own("mine.aims", OBJECTIVE)
    fields = {"train__batch": 64, "train__images": 64 * 20, "evaluate__sampler": "heun", "train__lr": 3e-3}
    cell = tiny(diffusion__objective="mine.aims:Late", **fields)
    check(cell)
    assert cell.name == "DiT-1x32x2/4 adaLN-Zero Late seed 0"
    assert cell.outside == {"diffusion.objective.version": version("model.backbone", "mine.aims:Late")}
    assert cell.id != tiny(diffusion__objective="flow", **fields).id
    objective = objectives.objective(cell.diffusion)
    images = datasets.load("tiny", "train", tmp_path)
    t = torch.cat([draw(images, cell, objective, at * 64, 3, "cpu")[2] for at in range(30)])
    assert t.logit().mean().item() == pytest.approx(2, abs=0.05)
    state = State(build(cell.model, 1, 16, 3, 1, seed=0), cell, "cpu", torch.float32)
    done = list(itertools.islice(steps(state, cell, images, 3), 20))
    assert done[-1].mse < 0.9 * done[0].mse and done[-1].vb is None
    with pytest.raises(ConfigError, match=r"diffusion\.schedule: cosine .* 'mine.aims:Late' is not; allowed: linear"):
        check(change(cell, diffusion__schedule="cosine"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store")
    return Store(f"sqlite:///{out / 'mlflow.db'}", out)


def test_a_run_says_which_version_of_outside_code_it_is_of(own, store):
    own("mine.nets", BACKBONE)
    cell = trial(model__backbone="mine.nets:Tiny", diffusion__objective="flow", evaluate__sampler="heun")
    run = store.client.get_run(store.create(cell, cell.name, "versions", store.parent("versions", [cell.id]), {}))
    assert run.info.run_name == "Tiny-1x32x2/4 flow seed 0"
    found = {name: value for name, value in run.data.params.items() if name.endswith("version")}
    assert found == {
        "model.backbone.version": version("model.backbone", "mine.nets:Tiny"),
        "version": str(config.VERSION),
    }
    assert set(found) <= set(record.PARAMS)


def test_weights_of_another_version_of_outside_code_are_not_used(own, store):
    own("mine.nets", BACKBONE)
    cell = trial(model__backbone="mine.nets:Tiny", train__lr=0.07)
    run = store.create(cell, cell.name, "weights", store.parent("weights", [cell.id]), {})
    store.set(run, "FINISHED")
    assert store.trained([cell.training_id]) == {cell.training_id: run}
    own("mine.nets", BACKBONE.replace("relu", "tanh"))
    changed = trial(model__backbone="mine.nets:Tiny", train__lr=0.07)
    assert store.trained([changed.training_id]) == {}


NOT_ONE = {
    "a function": ("model.backbone", "torch:relu", "a class of torch.nn.Module"),
    "a class of another kind": ("model.backbone", "json:JSONDecoder", "a class of torch.nn.Module"),
    "a network": (
        "diffusion.objective", "torch.nn:Linear", "a subclass of harness.diffusion.objectives.base.Objective",
    ),
    "a number": ("diffusion.objective", "math:pi", "a subclass of harness.diffusion.objectives.base.Objective"),
}  # fmt: skip


@pytest.mark.parametrize(("field", "name", "wanted"), NOT_ONE.values(), ids=NOT_ONE)
def test_outside_code_that_is_something_else_is_refused(field, name, wanted):
    with pytest.raises(ConfigError) as caught:
        check(trial(**{field.replace(".", "__"): name}))
    message = str(caught.value)
    assert message.startswith(f"{field}: '{name}' is ") and message.endswith(f"; allowed: {wanted}")
    assert "\n" not in message


# What outside code may not be

STATEFUL = """
from torch import nn
class Net(nn.Module):
    def __init__(self, model, channels, side, classes, outputs):
        super().__init__()
        self.leave, self.norm = nn.Conv2d(channels, outputs, 1), nn.BatchNorm2d(outputs)
    def forward(self, x, t, y):
        return self.norm(self.leave(x))
"""


def test_a_backbone_that_keeps_more_than_parameters_is_refused_before_it_is_trained(tiny, own):
    own("mine.state", STATEFUL)
    with pytest.raises(
        ConfigError, match=r"'mine.state:Net' keeps norm\.\w+, which is no parameter .*persistent=False"
    ):
        check(tiny(model__backbone="mine.state:Net"))


def test_a_backbone_that_cannot_be_made_is_one_line(tiny, own):
    own("mine.broken", STATEFUL.replace("super().__init__()", "raise ValueError('no such width\\nat all')"))
    with pytest.raises(ConfigError, match=r"^model.backbone: 'mine.broken:Net' cannot be made: no such width$"):
        check(tiny(model__backbone="mine.broken:Net"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("class Half(Objective):\n    family = 'discrete'", "lacks ask, draw, "),
        ("class Half(Flow):\n    family = 'quantum'", "says no family; allowed: discrete, continuous"),
    ],
)
def test_half_an_objective_is_refused(tiny, own, code, words):
    where = "harness.diffusion.objectives"
    own("mine.half", f"from {where}.base import Objective\nfrom {where}.flow import Flow\n{code}")
    with pytest.raises(ConfigError, match=f"^diffusion.objective: 'mine.half:Half' {words}"):
        check(tiny(diffusion__objective="mine.half:Half", evaluate__sampler="euler"))


def test_of_packages_that_share_a_name_the_one_with_the_file_counts():
    assert version("model.backbone", "google.protobuf:x").startswith("protobuf ")


def test_a_package_in_the_making_has_the_digest_of_its_source(tmp_path, monkeypatch):
    """Installed as editable its version stays while its code changes."""
    info = tmp_path / "growing-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: growing\nVersion: 1.5\n")
    (info / "top_level.txt").write_text("growing\n")
    (tmp_path / "growing.py").write_text("class Net: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    version.cache_clear()
    assert version("model.backbone", "growing:Net") == "growing 1.5"
    (info / "direct_url.json").write_text('{"url": "file:///there", "dir_info": {"editable": true}}')
    version.cache_clear()
    digest = hashlib.sha256(b"class Net: pass").hexdigest()[:12]
    assert version("model.backbone", "growing:Net") == f"growing 1.5 sha256:{digest}"
    version.cache_clear()
