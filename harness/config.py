"""What a trial is: frozen, typed, validated settings, and the content hash that names them.

Nothing here depends on torch, Ray or MLflow, so a sweep of thousands of cells expands in a moment.
"""

import difflib
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness import naming
from harness.errors import ConfigError
from harness.naming import choose

# name: (depth, width, heads). S to XL are Table 1 of the paper (arXiv 2212.09748). The ladder below them is
# for a CPU; its names say depth x width, and its heads have 40 to 64 channels each (the paper's: 64 and 72).
SIZES: dict[str, tuple[int, int, int]] = {
    "1x64":  ( 1,   64,  1),
    "2x80":  ( 2,   80,  2),
    "3x112": ( 3,  112,  2),
    "3x160": ( 3,  160,  4),
    "4x208": ( 4,  208,  4),
    "6x256": ( 6,  256,  4),
    "8x320": ( 8,  320,  5),
    "S":     (12,  384,  6),
    "B":     (12,  768, 12),
    "L":     (24, 1024, 16),
    "XL":    (28, 1152, 16),
}  # fmt: skip

# Raised when a change of code changes results, so that those of before are never taken for those of after: it is part
# of every trial's identity, and the report warns where it shows several. 1: the first release. 2: noise of samples and
# of held-out images in blocks, tables of the process from fp64, the weight of the bound, flips as the dataset says,
# hidden widths rounded.
VERSION = 2

# Fields that were added after the first release, with the value that means "as before": left out of the hash while
# they hold it, so that runs made before the field existed keep their identity.
ADDED_LATER: dict[str, Any] = {}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


class Model(_Settings):
    """A Diffusion Transformer's shape; other backbones say what the fields are to them, and refuse what is nothing.

    Image side, channels and classes come from the data.
    """

    backbone: str = "dit"  # a name in `harness.models.registry.BACKBONES`, or package.module:Class of your own
    depth: int = Field(gt=0)  # number of transformer blocks
    width: int = Field(gt=0)  # channels of a token
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)  # side of a square patch, in pixels (or latent cells)
    conditioning: str = "adaLN-Zero"  # a name in `harness.models.conditioning.CONDITIONING`
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            fit = [h for h in range(1, self.width + 1) if self.width % h == 0]
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; allowed: {_listed(fit)}")
        if self.backbone == "dit" and self.width % 4:
            raise ValueError(f"width={self.width} must be a multiple of 4 for the 2-D sin-cos positions")
        return self

    @cached_property
    def size(self) -> str:
        """The size's name: a row of `SIZES`, or `depth x width x heads` off the ladder."""
        shape = (self.depth, self.width, self.heads)
        return next((name for name, row in SIZES.items() if row == shape), "x".join(map(str, shape)))

    @property
    def name(self) -> str:
        """As people say it: `DiT-B/4`; of a backbone without patches `unet-1x32x1`."""
        patch = "" if self.backbone != "dit" and self.patch == 1 else f"/{self.patch}"
        return f"{'DiT' if self.backbone == 'dit' else self.backbone.split(':')[-1]}-{self.size}{patch}"


class Data(_Settings):
    dataset: str = "fashion-mnist"  # a name in `harness.data.registry.DATASETS`, of latents, or your own
    images: int = Field(0, ge=0)  # train on the first this many images; 0 means all of them
    # Random horizontal flips, the paper's only augmentation: own means where the dataset says that they do no harm.
    flip: Literal["own", "on", "off"] = "own"


class Diffusion(_Settings):
    """What the network learns to predict, and at which noise levels.

    The paper's is `ddpm` on a linear schedule of 1000 steps (its section 4; DDPM, arXiv 2006.11239). Schedule and
    timesteps are those of the discrete objectives; the density is that of the continuous ones.
    """

    objective: str = "ddpm"  # a name in `harness.diffusion.objectives.registry.OBJECTIVES`, or package.module:Class
    schedule: str = "linear"  # a name in `harness.diffusion.process.SCHEDULES`
    timesteps: int = Field(1000, gt=1)
    density: Literal["own", "uniform", "logit-normal"] = "own"  # of training times; own: that of the objective's paper
    density_mean: float = 0.0  # of a logit-normal one
    density_std: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("density_mean", "density_std"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if self.density != "logit-normal" and value != default:
                raise ValueError(f"{name}={value} is of density=logit-normal, and density={self.density}")
        return self


class Train(_Settings):
    """The recipe of the paper's section 4: AdamW, constant learning rate, no weight decay, EMA."""

    images: int = Field(400_000 * 256, gt=0)  # training length in images seen, repeats counted
    batch: int = Field(256, gt=0)
    lr: float = Field(1e-4, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    label_dropout: float = Field(0.1, ge=0, lt=1)  # probability of the null class, for guidance
    ema_std: float = Field(0.10, gt=0, lt=0.25)  # EMA width relative to the run so far (EDM2, arXiv 2312.02696)
    ema_decay: float = Field(0.0, ge=0, lt=1)  # a constant decay per step instead, as the paper's 0.9999; 0: off
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the hardware multiplies it natively

    @property
    def steps(self) -> int:
        """Optimiser steps: whole batches, rounded up."""
        return -(-self.images // self.batch)


class Evaluate(_Settings):
    """How a model is measured. Every one of these changes the FID, so every one is part of a trial's identity."""

    points: int = Field(3, gt=0)  # evaluations in a run: at images/2^(points-1), ..., images/2, images
    samples: int = Field(50_000, gt=3)  # generated images of each evaluation; precision looks at three neighbours
    reference: int = Field(50_000, gt=3)  # real training images on the other side of the distance
    manifold: int = Field(0, ge=0)  # of those, the first so many are what precision and recall look at; 0 means all
    sampler: str = "ddpm"  # a name in `harness.diffusion.samplers.registry.SAMPLERS`
    steps: int = Field(250, gt=0)  # sampling steps, respaced from the training timesteps
    guidance: float = Field(1.0, ge=0)  # classifier-free guidance scale; 1 is none
    guidance_channels: int = Field(0, ge=0)  # guide the first this many channels (the paper: 3); 0 means all
    extractor: str = "lite0"  # a name in `harness.metrics.extractors.registry.EXTRACTORS`
    val_images: int = Field(2_000, gt=0)  # held-out images for val_loss


class Trial(_Settings):
    """One cell of a sweep: everything that changes its result, and nothing that does not."""

    model: Model
    data: Data = Data()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    seed: int = Field(0, ge=0)

    @cached_property
    def flat(self) -> dict[str, Any]:
        """`flatten` of it, not to be changed: thousands of cells are hashed, named and told apart by these."""
        return flatten(self)

    @cached_property
    def outside(self) -> dict[str, str]:
        """The version of each package outside this project that the trial takes code from, under `FIELD.version`.

        Raises ConfigError if one cannot be found.
        """
        named = {name: self.flat[name] for name in ("model.backbone", "diffusion.objective", "data.dataset")}
        return {
            f"{name}.version": naming.version(name, value) for name, value in named.items() if naming.is_outside(value)
        }

    @cached_property
    def id(self) -> str:
        """Content hash: equal ids mean the same experiment, on whatever machine, folder or device it runs."""
        return _digest(self.flat | self.outside)

    @cached_property
    def training_id(self) -> str:
        """Content hash of what changes the weights: trials that differ in `evaluate` alone share it."""
        trained = {name: value for name, value in self.flat.items() if not name.startswith("evaluate.")}
        return _digest(trained | self.outside)

    @property
    def name(self) -> str:
        """As people say it: `DiT-B/4 adaLN-Zero seed 0`; only a transformer has a conditioning type to say.

        The objective is said where it is not the paper's: `DiT-B/4 adaLN-Zero flow seed 0`.
        """
        conditioning = f" {self.model.conditioning}" if self.model.backbone == "dit" else ""
        objective = self.diffusion.objective.split(":")[-1]
        return f"{self.model.name}{conditioning}{'' if objective == 'ddpm' else f' {objective}'} seed {self.seed}"

    @property
    def cadence(self) -> tuple[int, ...]:
        """Images seen at which the model is evaluated: halvings of the run, rounded up to whole batches."""
        batch, steps = self.train.batch, self.train.steps
        return tuple(sorted({-(-steps // 2**k) * batch for k in range(self.evaluate.points)}))


def _digest(fields: dict[str, Any]) -> str:
    kept = {name: value for name, value in fields.items() if ADDED_LATER.get(name, ...) != value}
    return hashlib.sha256(json.dumps(kept | {"version": VERSION}, sort_keys=True).encode()).hexdigest()[:12]


def names(trials: Sequence[Trial]) -> dict[str, str]:
    """Trial id -> its name, and where several share it what tells them apart: `DiT-B/4 adaLN-Zero seed 0, steps 9`."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.name, []).append(trial)
    out = {}
    for name, group in alike.items():
        fields = [trial.flat for trial in group]
        differ = [key for key in fields[0] if any(each[key] != fields[0][key] for each in fields)]
        for trial, each in zip(group, fields, strict=True):
            out[trial.id] = ", ".join([name, *(f"{key.split('.')[-1]} {_short(each[key])}" for key in differ)])
    return out


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def flatten(trial: BaseModel, prefix: str = "") -> dict[str, Any]:
    """`{"model.depth": 12, ..., "seed": 0}`: every setting under its dotted name."""
    out: dict[str, Any] = {}
    for name in type(trial).model_fields:
        value = getattr(trial, name)
        out |= flatten(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {f"{prefix}{name}": value}
    return out


def unflatten(fields: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`, as nested dicts; `model.size` stands for the three fields it names."""
    out: dict[str, Any] = {}
    fields = dict(fields)
    if "model.size" in fields:
        shape = shape_of(str(fields.pop("model.size")))
        fields |= dict(zip(("model.depth", "model.width", "model.heads"), shape, strict=True))
    for name, value in fields.items():
        *path, leaf = name.split(".")
        node = out
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return out


def shape_of(size: str) -> tuple[int, int, int]:
    """(depth, width, heads) of a named size or of `DxWxH`. Raises ConfigError for an unknown one."""
    if size in SIZES:
        return SIZES[size]
    parts = size.split("x")
    if len(parts) == 3 and all(p.isdigit() for p in parts):
        return tuple(map(int, parts))
    raise ConfigError(f"model.size: unknown size '{size}'; allowed: {', '.join(SIZES)}, or DEPTHxWIDTHxHEADS")


def make(fields: dict[str, Any]) -> Trial:
    """A trial from dotted fields. Raises ConfigError, one line for the first thing that is wrong."""
    try:
        return Trial.model_validate(unflatten(fields))
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def change(trial: Trial, **fields: Any) -> Trial:
    """`trial` with dotted fields replaced (dots written as `__`): `change(t, model__patch=4)`."""
    return make(flatten(trial) | {name.replace("__", "."): value for name, value in fields.items()})


def grid(base: dict[str, Any], axes: dict[str, Sequence[Any]] | None = None) -> list[Trial]:
    """Every combination of the axes' values over the base fields, in order, without repeats.

    An axis is a dotted field, or `model.size`: `grid(base, {"model.size": ("S", "B"), "model.patch": (8, 4)})`.
    """
    axes = axes or {}
    cells = (make(base | dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values()))
    return unique(cells)


def unique(trials: Iterable[Trial]) -> list[Trial]:
    """The trials without repeats, first ones kept."""
    return list({trial.id: trial for trial in trials}.values())


def override(trials: list[Trial], settings: str) -> list[Trial]:
    """Apply `"train.images=50000 model.patch=8,4 seeds=3"` to every trial; a list of values makes an axis.

    `seeds=3` is short for `seed=0,1,2`. Cells that an override makes equal are merged.
    Raises ConfigError for an unknown field or a value that does not fit it.
    """
    known = [*flatten(trials[0]), "model.size", "seeds"]
    axes: dict[str, Sequence[Any]] = {}
    given = {item.partition("=")[0] for item in settings.split()}
    for short, long in {"model.size": {"model.depth", "model.width", "model.heads"}, "seeds": {"seed"}}.items():
        if short in given and given & long:
            raise ConfigError(f"{short}: says what {', '.join(sorted(given & long))} says too; give one of them")
    for item in settings.split():
        name, _, text = item.partition("=")
        if name not in known:
            raise ConfigError(f"unknown override '{name}'{_nearest(name, known)}; allowed: {', '.join(sorted(known))}")
        if not text:
            raise ConfigError(f"override '{item}' has no value; write {name}=VALUE")
        if name != "seeds":
            axes[name] = text.split(",")
        elif text.isdigit() and int(text):
            axes["seed"] = range(int(text))
        else:
            raise ConfigError(f"seeds: '{text}' is not a positive whole number")
    return unique(cell for trial in trials for cell in grid(flatten(trial), axes))


class Scale(_Settings):
    """The same sweep at another price: settings that differ from the paper's, and the sizes a ladder climbs."""

    about: str
    ladder: tuple[str, ...]
    patches: tuple[int, ...] = (8, 4, 2)
    fields: dict[str, Any]

    @field_validator("ladder")
    @classmethod
    def _known(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        for size in ladder:
            shape_of(size)
        return ladder


SCALES: dict[str, Scale] = {
    "smoke": Scale(
        about="seconds a model: does every part work?",
        ladder=("1x64", "2x80"),
        patches=(8, 4),
        fields={
            "data.images": 4_096, "train.images": 2_048, "train.batch": 32, "train.lr": 1e-3,
            "evaluate.points": 2, "evaluate.samples": 64, "evaluate.reference": 512, "evaluate.sampler": "ddim",
            "evaluate.steps": 5, "evaluate.val_images": 128,
        },
    ),
    "cpu": Scale(
        about="a real study on a laptop: all of Fashion-MNIST, models of 0.003 to 0.64 Gflops",
        ladder=("2x80", "3x112", "3x160", "4x208"),
        fields={
            "train.images": 40_960, "train.batch": 16, "train.lr": 2e-3, "train.beta2": 0.99,
            "evaluate.samples": 1_000, "evaluate.reference": 5_000, "evaluate.sampler": "ddim", "evaluate.steps": 10,
        },
    ),
    "gpu": Scale(
        about="one GPU, an evening: up to the paper's S and B",
        ladder=("4x208", "8x320", "S", "B"),
        fields={
            "train.images": 2_048_000, "train.batch": 128, "train.lr": 3e-4,
            "evaluate.samples": 10_000, "evaluate.reference": 10_000, "evaluate.sampler": "ddim",
            "evaluate.steps": 50,
        },
    ),
    "paper": Scale(
        about="the paper's own study: ImageNet 256x256 latents, 400K steps of batch 256, FID-50K of 250 DDPM steps",
        ladder=("S", "B", "L", "XL"),
        fields={
            "data.dataset": "imagenet-256-latents", "train.ema_decay": 0.9999,
            "evaluate.extractor": "inception", "evaluate.manifold": 10_000,
        },
    ),
}  # fmt: skip


def base(scale: str, size: str | None = None, patch: int = 4) -> dict[str, Any]:
    """The dotted fields a sweep starts from at a scale; the middle of its ladder unless a size is given."""
    chosen = lookup_scale(scale)
    middle = chosen.ladder[len(chosen.ladder) // 2]
    shape = dict(zip(("depth", "width", "heads"), shape_of(size or middle), strict=True))
    return flatten(make({f"model.{k}": v for k, v in shape.items()} | {"model.patch": patch} | chosen.fields))


def lookup_scale(scale: str) -> Scale:
    """Raises ConfigError for an unknown scale."""
    return choose("scale", scale, SCALES)


def _listed(values: Iterable[Any], most: int = 24) -> str:
    texts = [str(v) for v in values]
    return ", ".join(texts if len(texts) <= most else [*texts[:most], "..."])


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "trial"
    message = first["msg"].removeprefix("Value error, ")
    # A nested model arrives whole as the input of its own validator: its message already names the value.
    value = "" if isinstance(first["input"], dict | BaseModel) else f"{first['input']!r}: "
    return f"{field}: {value}{message[0].lower()}{message[1:]}"
