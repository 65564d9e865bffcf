"""Settings: identity that outlives the code, and errors that name the field, the value and what is allowed."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from harness import config
from harness.config import SCALES, SIZES, Train, Trial, base, change, flatten, grid, make, names, override
from harness.errors import ConfigError, first_line

GOLDEN = {  # ids that runs made by earlier versions carry: a change here orphans them
    "default S/4": ("36ba32848edf", {"model.size": "S", "model.patch": 4}),
    "B/2 in-context, seed 3": (
        "a8d9ea6598f6",
        {"model.size": "B", "model.patch": 2, "model.conditioning": "in-context", "seed": 3, "train.lr": 1e-3},
    ),
}


def trial(**fields):
    return change(make({"model.size": "S", "model.patch": 4}), **fields)


@pytest.mark.parametrize(("expected", "fields"), GOLDEN.values(), ids=GOLDEN)
def test_ids_of_earlier_versions_hold(expected, fields):
    assert make(fields).id == expected


def test_id_is_the_same_in_another_process_and_field_order():
    fields = {"model.size": "S", "model.patch": 4, "seed": 5}
    code = f"from harness.config import make; print(make(dict(reversed({list(fields.items())!r}))).id)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == make(fields).id


@pytest.mark.parametrize("name", [name for name, value in flatten(trial()).items() if not isinstance(value, str)])
def test_every_number_is_part_of_the_identity(name):
    value = flatten(trial())[name]
    other = not value if isinstance(value, bool) else value / 2 if isinstance(value, float) and value else value + 1
    fits = {"model.width": 768, "model.heads": 12, "train.ema_decay": 0.999, "train.weight_decay": 0.1,
            "diffusion.density_mean": 0.5}  # fmt: skip
    plain = trial(diffusion__density="logit-normal")
    assert make(flatten(plain) | {name: fits.get(name, other)}).id != plain.id


def test_every_word_is_part_of_the_identity():
    words = {
        "model.conditioning": "adaLN", "data.dataset": "cifar10", "data.flip": "off", "diffusion.objective": "flow",
        "diffusion.schedule": "cosine", "diffusion.density": "uniform", "train.precision": "fp32",
        "evaluate.sampler": "ddim", "evaluate.extractor": "inception", "model.backbone": "unet",
    }  # fmt: skip
    assert set(words) == {name for name, value in flatten(trial()).items() if isinstance(value, str)}
    assert len({trial().id, *(make(flatten(trial()) | {name: word}).id for name, word in words.items())}) == 11


def test_a_field_added_later_leaves_old_ids_alone(monkeypatch):
    class Longer(Train):
        warmup: int = 0

    class Newer(Trial):
        train: Longer = Longer()

    old = trial()
    fields = {"model": old.model.model_dump()}
    assert Newer.model_validate(fields).id != old.id  # undeclared, it would have changed every id
    monkeypatch.setitem(config.ADDED_LATER, "train.warmup", 0)
    assert Newer.model_validate(fields).id == old.id
    assert Newer.model_validate(fields | {"train": {"warmup": 5}}).id != old.id


def test_trials_that_differ_in_evaluation_alone_share_their_training():
    one = make(base("cpu"))
    assert {change(one, **{f"evaluate__{k}": v}).training_id for k, v in {"steps": 99, "samples": 7}.items()} == {
        one.training_id
    }
    others = {"train__lr": 1e-5, "seed": 3, "model__patch": 8, "diffusion__schedule": "cosine", "data__flip": "off",
              "diffusion__objective": "flow"}  # fmt: skip
    assert len({one.training_id, *(change(one, **{k: v}).training_id for k, v in others.items())}) == 7


def test_names_say_what_tells_trials_of_one_name_apart():
    trials = grid(base("cpu", "2x80", 8), {"train.lr": [1e-3, 2e-3], "evaluate.steps": [4, 8]})
    other = make(base("cpu", "2x80", 4))
    called = names([*trials, other])
    assert [called[t.id] for t in trials[:2]] == [
        "DiT-2x80/8 adaLN-Zero seed 0, lr 0.001, steps 4",
        "DiT-2x80/8 adaLN-Zero seed 0, lr 0.001, steps 8",
    ]
    assert called[other.id] == other.name and len(set(called.values())) == 5


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        trial().seed = 1


def test_flatten_and_make_are_inverse():
    cell = trial(seed=7, train__lr=3e-4, model__conditioning="adaLN")
    assert make(flatten(cell)) == cell
    assert json.loads(json.dumps(flatten(cell)))["train.lr"] == 3e-4


def test_sizes_are_the_paper_s():
    """Table 1: layers, hidden size, heads."""
    assert {name: SIZES[name] for name in ("S", "B", "L", "XL")} == {
        "S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16),
    }  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_named_as_it_is_built(size):
    model = make({"model.size": size, "model.patch": 2}).model
    assert (model.size, model.name) == (size, f"DiT-{size}/2")
    assert (model.depth, model.width, model.heads) == SIZES[size]
    if size[0].isdigit():
        assert size == f"{model.depth}x{model.width}"


def test_a_size_off_the_ladder_names_itself():
    cell = make({"model.size": "5x160x4", "model.patch": 8, "model.conditioning": "cross-attention", "seed": 2})
    assert cell.name == "DiT-5x160x4/8 cross-attention seed 2"


@pytest.mark.parametrize(
    ("images", "batch", "points", "expected"),
    [
        (1024, 32, 3, (256, 512, 1024)),
        (1000, 32, 2, (512, 1024)),  # whole batches, rounded up
        (100, 32, 1, (128,)),
        (32, 32, 5, (32,)),  # fewer steps than points: no repeats
        (96, 32, 3, (32, 64, 96)),
    ],
)
def test_cadence_halves_the_run_and_ends_with_it(images, batch, points, expected):
    cell = trial(train__images=images, train__batch=batch, evaluate__points=points)
    assert cell.cadence == expected
    assert cell.cadence[-1] == cell.train.steps * batch >= images


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "DiT-S/4 adaLN-Zero seed 0"),
        ({"diffusion__objective": "flow", "seed": 2}, "DiT-S/4 adaLN-Zero flow seed 2"),
        ({"model__backbone": "unet", "model__patch": 1, "diffusion__objective": "v"}, "unet-S v seed 0"),
        ({"model__backbone": "numpy:Net", "diffusion__objective": "numpy:Aim"}, "Net-S/4 Aim seed 0"),
    ],
)
def test_the_objective_is_said_where_it_is_not_the_paper_s(fields, name):
    assert trial(**fields).name == name


def test_grid_is_every_combination_in_order_without_repeats():
    cells = grid({"model.patch": 8}, {"model.size": ("S", "B", "S"), "model.patch": (8, 4)})
    assert [cell.model.name for cell in cells] == ["DiT-S/8", "DiT-S/4", "DiT-B/8", "DiT-B/4"]
    assert len({cell.id for cell in cells}) == 4
    assert len(grid({"model.size": "S", "model.patch": 8})) == 1


def test_overrides_set_split_and_merge():
    cells = grid({"model.patch": 8}, {"model.size": ("S", "B")})
    changed = override(cells, "train.images=5000 model.patch=4")
    assert {(c.train.images, c.model.patch) for c in changed} == {(5000, 4)}
    assert [c.seed for c in override(cells, "seeds=3")] == [0, 1, 2, 0, 1, 2]
    assert [c.model.name for c in override(cells[:1], "model.patch=8,2")] == ["DiT-S/8", "DiT-S/2"]
    assert [c.model.name for c in override(cells, "model.size=L")] == ["DiT-L/8"]  # made equal, so merged
    assert override(cells, "") == cells


@pytest.mark.parametrize(
    "settings",
    [
        "model.width=640 model.heads=5",
        "model.heads=5 model.width=640",
        "diffusion.density=logit-normal diffusion.density_mean=0.5",
        "diffusion.density_std=0.5 diffusion.density=logit-normal",
    ],
)
def test_overrides_that_only_fit_together_may_come_in_any_order(settings):
    assert len(override([trial()], settings)) == 1


ERRORS = {
    "unknown override": ("train.imags=5", "unknown override 'train.imags' (did you mean train.images?); allowed: "),
    "no value": ("train.lr=", "override 'train.lr=' has no value; write train.lr=VALUE"),
    "no sign": ("train.lr", "override 'train.lr' has no value; write train.lr=VALUE"),
    "a size twice": (
        "model.size=B model.heads=4,6 model.depth=3",
        "model.size: says what model.depth, model.heads says too; give one of them",
    ),
    "a seed twice": ("seed=7 seeds=3", "seeds: says what seed says too; give one of them"),
    "seeds": ("seeds=few", "seeds: 'few' is not a positive whole number"),
    "no seeds": ("seeds=0", "seeds: '0' is not a positive whole number"),
    "not a number": ("train.lr=fast", "train.lr: 'fast': input should be a valid number"),
    "not whole": ("train.batch=1.5", "train.batch: '1.5': input should be a valid integer"),
    "not positive": ("train.batch=0", "train.batch: '0': input should be greater than 0"),
    "infinite": ("train.lr=inf", "train.lr: 'inf': input should be a finite number"),
    "not a choice": (
        "train.precision=fp8",
        "train.precision: 'fp8': input should be 'auto', 'bf16' or 'fp32'",
    ),
    "size": ("model.size=M", "model.size: unknown size 'M'; allowed: 1x64, "),
    "heads": ("model.heads=5", "model: heads=5 does not divide width=384; allowed: 1, 2, 3, 4, 6, 8, "),
    "width": ("model.width=6 model.heads=1", "width=6 must be a multiple of 4"),
    "few samples": ("evaluate.samples=3", "evaluate.samples: '3': input should be greater than 3"),
    "few real images": ("evaluate.reference=3", "evaluate.reference: '3': input should be greater than 3"),
    "mean without a density": (
        "diffusion.density_mean=0.5",
        "diffusion: density_mean=0.5 is of density=logit-normal, and density=own",
    ),
    "width of another density": (
        "diffusion.density=uniform diffusion.density_std=0.5",
        "diffusion: density_std=0.5 is of density=logit-normal, and density=uniform",
    ),
    "no width": (
        "diffusion.density=logit-normal diffusion.density_std=0",
        "diffusion.density_std: '0': input should be greater than 0",
    ),
    "density": ("diffusion.density=mode", "diffusion.density: 'mode': input should be 'own', 'uniform' or 'logit-norm"),
    "flip": ("data.flip=true", "data.flip: 'true': input should be 'own', 'on' or 'off'"),
    "learn_sigma": ("model.learn_sigma=false", "unknown override 'model.learn_sigma'"),
}


@pytest.mark.parametrize(("settings", "expected"), ERRORS.values(), ids=ERRORS)
def test_an_error_names_field_value_and_allowed(settings, expected):
    with pytest.raises(ConfigError) as caught:
        override([trial()], settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_scale_lists_the_known():
    with pytest.raises(ConfigError, match=r"unknown scale 'huge'; allowed: smoke, cpu, gpu, paper"):
        base("huge")


def test_a_misspelt_setting_in_a_sweep_is_refused():
    with pytest.raises(ConfigError, match=r"model\.dept"):
        make({"model.size": "S", "model.patch": 4, "model.dept": 3})


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_makes_trials(scale):
    cells = grid(base(scale), {"model.size": SCALES[scale].ladder, "model.patch": SCALES[scale].patches})
    assert len(cells) == len(SCALES[scale].ladder) * len(SCALES[scale].patches)


def test_paper_scale_is_the_paper_s_recipe():
    """Section 4: AdamW at 1e-4, batch 256, EMA 0.9999, no weight decay; 400K steps, FID-50K of 250 DDPM steps."""
    cell = make(base("paper", "XL", 2))
    assert (cell.train.lr, cell.train.batch, cell.train.steps) == (1e-4, 256, 400_000)
    assert (cell.train.ema_decay, cell.train.weight_decay, cell.train.label_dropout) == (0.9999, 0, 0.1)
    assert (cell.evaluate.samples, cell.evaluate.steps, cell.evaluate.sampler) == (50_000, 250, "ddpm")
    assert cell.evaluate.extractor == "inception"


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(" no space\nleft "), "no space"), (RuntimeError(), "RuntimeError"), (OSError(" "), "OSError")],
)
def test_what_a_library_says_is_one_line_even_where_it_says_nothing(error, told):
    assert first_line(error) == told


def test_config_needs_no_heavy_library():
    """A sweep of thousands of cells expands in a moment, also where torch takes ten seconds to import."""
    code = "import sys, harness.config; print([m for m in ('torch', 'ray', 'mlflow', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
