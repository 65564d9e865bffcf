"""A synthetic study with known truth: labelled as such in every name, so that it is never taken for a result."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import pull
from harness.config import VERSION, Trial, flatten, grid
from harness.record import LOG_SNR

EXPONENT = -0.35  # of the FID planted in `study`
# Heads no ladder would have, so that these shapes stay off `SIZES` whatever it becomes.
LADDER = ("2x96x6", "3x128x8", "4x192x12", "4x256x16")
FLOOR = 60.0  # FID of real images, below all that a model reaches here
AHEAD = {"ddpm": 1.0, "noise": 1.05, "v": 0.95, "flow": 0.85, "edm": 0.9}  # FID of an objective over that of ddpm
SAMPLERS = {"flow": "euler", "edm": "heun"}
PENALTY = {"adaLN-Zero": 1.0, "adaLN": 1.15, "cross-attention": 1.2, "in-context": 1.6}
RECIPE = {
    "model.size": "3x128x8", "model.patch": 4, "train.images": 32_768, "train.batch": 32, "train.lr": 1e-3,
    "evaluate.samples": 1_000, "evaluate.reference": 5_000, "evaluate.sampler": "ddim", "evaluate.steps": 16,
}  # fmt: skip


def gflops(trial: Trial) -> float:
    """A stand-in for the counted cost, in 1e9 multiply-adds."""
    tokens = (32 // trial.model.patch) ** 2
    return trial.model.depth * (12 * trial.model.width**2 * tokens + 2 * tokens**2 * trial.model.width) / 1e9


def calls(trial: Trial) -> int:
    """Forward passes of a sample."""
    steps = trial.evaluate.steps
    once = 2 * steps - 1 if trial.evaluate.sampler == "heun" else steps
    return once if trial.evaluate.guidance == 1 else 2 * once


def by_level(trial: Trial, cost: float) -> dict[str, float]:
    """Held-out MSE of noise and image, which follow from each other, and half the area under the first."""
    noise = {level: 0.2 * cost**-0.06 / (1 + math.exp(-level)) * AHEAD[trial.diffusion.objective] for level in LOG_SNR}
    out = {f"noise_mse/{level}": value for level, value in noise.items()}
    out |= {f"image_mse/{level}": value * math.exp(-level) for level, value in noise.items()}
    return out | {"diffusion_loss": float(np.trapezoid(list(noise.values()), LOG_SNR)) / 2}


def rows(trial: Trial, noise: float = 0.0, status: str = "FINISHED") -> list[dict]:
    """What a trial would have logged: losses at 16 points, quality at the last three halvings."""
    cost = gflops(trial)
    facts = {
        **flatten(trial), "run_id": f"synthetic-{trial.id}", "trial_id": trial.id,
        "name": f"synthetic {trial.name}", "sweep": "synthetic", "status": status,
        "started": 1_700_000_000_000, "ended": 1_700_000_900_000, "tags": '{"mlflow": "3.17.2", "torch": "2.14.1"}',
        "model.name": trial.model.name, "model.size": trial.model.size, "model.gflops": cost,
        "model.tokens": (32 // trial.model.patch) ** 2,
        "model.params_m": trial.model.depth * trial.model.width**2 * 18e-6,
        "train_gflops_total": cost * trial.train.images * 3, "data.digest": "0" * 64, "evaluate.split": "train",
        "train.arithmetic": "fp32", "version": VERSION, "evaluate.calls": calls(trial),
    }  # fmt: skip
    factor = PENALTY[trial.model.conditioning] * AHEAD[trial.diffusion.objective]
    factor *= 0.9 if trial.diffusion.density == "logit-normal" else 1.0
    random = np.random.default_rng(int(trial.id[:6], 16))
    out = []
    for point in range(1, 17):
        images = trial.train.images * point // 16
        loss = 0.12 * cost**-0.06 * (1 + 2000 / images) * (1 + 0.03 * random.standard_normal())
        row = {**facts, "images": images, "loss": loss, "mse": 0.98 * loss, "train_gflops": cost * images * 3}
        row |= {"images_per_second": 60 / cost**0.7, "train_seconds": images * cost**0.7 / 60}
        if images in trial.cadence:
            fid = 300 * cost**EXPONENT * (trial.train.images / images) ** 0.5 * factor
            fid *= math.exp(noise * random.standard_normal())
            row |= {
                "fid": fid, "kid": fid / 4000, "inception_score": 9 - math.log(fid), "fid_floor": FLOOR,
                "precision": 1 / (1 + fid / 900), "recall": 1 / (1 + fid / 600), "eval_seconds": 9.0,
            } | by_level(trial, cost)  # fmt: skip
            row |= {} if trial.diffusion.objective in SAMPLERS else {"val_loss": 0.93 * loss}
        out.append(row)
    return out


def frame_of(trials: list[Trial], **options) -> pd.DataFrame:
    return pull.conform(pd.DataFrame([row for trial in trials for row in rows(trial, **options)]))


def study_trials(seeds: tuple[int, ...] = (0,)) -> list[Trial]:
    return grid(RECIPE, {"model.size": LADDER, "model.patch": (8, 4, 2), "seed": seeds})


@pytest.fixture
def study() -> pd.DataFrame:
    """Twelve models on an exact power law of their Gflops."""
    return frame_of(study_trials())


@pytest.fixture
def seeded() -> pd.DataFrame:
    """The same with three seeds and noise."""
    return frame_of(study_trials((0, 1, 2)), noise=0.05)


@pytest.fixture
def conditioned() -> pd.DataFrame:
    """One size with the four conditioning types."""
    types = ("in-context", "cross-attention", "adaLN", "adaLN-Zero")
    return frame_of(grid(RECIPE, {"model.conditioning": types}))


@pytest.fixture
def shaped() -> pd.DataFrame:
    """Depth by width, off the ladder."""
    shapes = [f"{depth}x{width}x{width // 32}" for depth in (2, 4, 8) for width in (64, 128, 256)]
    return frame_of(grid(RECIPE, {"model.size": shapes}))


@pytest.fixture
def rated() -> pd.DataFrame:
    """Each size at three learning rates, one patch."""
    axes = {"model.size": LADDER, "train.lr": (5e-4, 1e-3, 2e-3)}
    return frame_of(grid(RECIPE | {"model.patch": 8}, axes), noise=0.1)


@pytest.fixture
def scheduled() -> pd.DataFrame:
    """One model under each noise schedule."""
    return frame_of(grid(RECIPE, {"diffusion.schedule": ("linear", "scaled_linear", "cosine")}), noise=0.1)


def measured(axes: dict) -> pd.DataFrame:
    """Every model of `study_trials` measured at its end alone, in each way."""
    return frame_of(
        grid(RECIPE | {"evaluate.points": 1}, {"model.size": LADDER, "model.patch": (8, 4, 2)} | axes), noise=0.05
    )


@pytest.fixture
def stepped() -> pd.DataFrame:
    """The twelve models at three numbers of sampling steps: more steps change FID by chance alone."""
    return measured({"evaluate.steps": (4, 16, 64)})


@pytest.fixture
def guided() -> pd.DataFrame:
    """The twelve models at three scales of guidance."""
    return measured({"evaluate.guidance": (1.0, 2.0, 4.0)})


@pytest.fixture
def paired() -> pd.DataFrame:
    """Three transformers and, 3 % dearer and with lower FID, a U-Net for each; the smallest under two schedules."""
    sizes, unet = {"model.size": LADDER[:3]}, RECIPE | {"model.backbone": "unet", "model.patch": 1}
    cosine = grid(unet | {"diffusion.schedule": "cosine"}, sizes)
    frame = frame_of([*grid(RECIPE | {"model.patch": 2}, sizes), *cosine, *grid(unet | {"model.size": LADDER[0]})])
    lowest = frame.groupby("model.size")["model.gflops"].transform("min")
    return frame.assign(**{"model.gflops": lowest * (1 + 0.03 * (frame["model.backbone"] == "unet"))})


def asked(noise: float = 0.0, seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Three models under five objectives and a second density of times, each sampled in its own way."""
    kinds = [(name, "own") for name in AHEAD] + [("flow", "logit-normal")]
    settings = [
        {"diffusion.objective": name, "diffusion.density": density}
        | ({"evaluate.sampler": SAMPLERS[name]} if name in SAMPLERS else {})
        | ({"evaluate.steps": 8} if name == "edm" else {}) for name, density in kinds
    ]  # fmt: skip
    axes = {"model.size": LADDER[:3], "seed": seeds}
    return frame_of([trial for each in settings for trial in grid(RECIPE | each, axes)], noise=noise)


@pytest.fixture
def aimed() -> pd.DataFrame:
    return asked()
