"""The registry of figures. A figure is a function (frame -> matplotlib Figure) with a caption and the question
whether a frame has enough for it; a new one is one function and one row here."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis import frames
from analysis.figures import backbones, compute, curves, objectives, recipes, settings, shape


@dataclass(frozen=True)
class Spec:
    """One figure of the report."""

    title: str
    draw: Callable[..., object]  # (frame) -> Figure; (frame, images) if `needs_images`
    caption: Callable[[pd.DataFrame], str]
    applies: Callable[[pd.DataFrame], bool]
    needs_images: bool = False
    across: tuple[str, ...] = ()  # of `frames.COMPARABLE`, what it draws several values of


def _evaluated(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["fid"].notna()]


def _models(least: int) -> Callable[[pd.DataFrame], bool]:
    return lambda frame: len(frames.cells(frame)) >= least


def _several(column: str) -> Callable[[pd.DataFrame], bool]:
    """Several values, and a FID at two points of training at least: a line to draw."""
    return lambda frame: (
        _evaluated(frame)[column].nunique() > 1
        and bool((_evaluated(frame).groupby("run_id").size() > 1).any())
        and len(frames.cells(frame)) > 1
    )


def one_way(frame: pd.DataFrame) -> bool:
    """One backbone, no shape of which has several learning rates or schedules: points are models, not recipes."""
    return frame["model.backbone"].nunique() <= 1 and not any(
        _recipes(field)(frame) for field in ("train.lr", "diffusion.schedule")
    )


def _lattice(frame: pd.DataFrame) -> bool:
    """Some depth with several widths and some width with several depths."""
    cells = frames.cells(frame)
    return len(cells) >= 4 and all(
        (cells.groupby([one, "model.patch"])[other].nunique() > 1).any()
        for one, other in (("model.depth", "model.width"), ("model.width", "model.depth"))
    )


def _recipes(field: str, least: int = 2) -> Callable[[pd.DataFrame], bool]:
    """Some shape was trained with several values of a setting."""
    return lambda frame: bool((frames.cells(frame).groupby(list(frames.SHAPE))[field].nunique() >= least).any())


def _measured(field: str) -> Callable[[pd.DataFrame], bool]:
    """Some shape was measured with several values of an evaluation setting."""
    return lambda frame: bool((frames.finished(frame).groupby(list(frames.SHAPE))[field].nunique() > 1).any())


FIGURES: dict[str, Spec] = {
    "fid_vs_gflops": Spec(
        "FID against model Gflops", compute.fid_vs_gflops, compute.caption_fid_vs_gflops,
        lambda frame: _gflops(frame) and _shapes(3)(frame) and one_way(frame),
    ),
    "fid_by_size": Spec(
        "FID over training, by model size", curves.fid_by_size, curves.caption_fid_by_size,
        lambda frame: _several("model.size")(frame) and not _lattice(frame) and one_way(frame),
    ),
    "fid_by_patch": Spec(
        "FID over training, by patch size", curves.fid_by_patch, curves.caption_fid_by_patch,
        lambda frame: _several("model.patch")(frame) and one_way(frame),
    ),
    "conditioning": Spec(
        "Conditioning types", shape.conditioning, shape.caption_conditioning, _several("model.conditioning"),
    ),
    "depth_width": Spec("Depth and width", shape.depth_width, shape.caption_depth_width, _lattice),
    "learning_rate": Spec(
        "Learning rate by size", recipes.learning_rate, recipes.caption_learning_rate, recipes.has_rates,
    ),
    "schedules": Spec(
        "Noise schedules", recipes.schedules, recipes.caption_schedules,
        lambda frame: frame["model.backbone"].nunique() == 1 and _recipes("diffusion.schedule")(frame),
    ),
    "backbones": Spec(
        "Backbones at equal Gflops", backbones.backbones, backbones.caption_backbones,
        lambda frame: len(backbones.pairs(frames.cells(frame))) > 0,
    ),
    "objectives": Spec(
        "Objectives at equal Gflops", objectives.objectives, objectives.caption_objectives,
        lambda frame: len(objectives.compared(frame)) > 0, across=objectives.ACROSS,
    ),
    "diffusion_loss": Spec(
        "Held-out error by noise level", objectives.diffusion_loss, objectives.caption_diffusion_loss,
        lambda frame: len(objectives.asked_alike(frame)) > 1, across=objectives.ACROSS,
    ),
    "seeds": Spec("Spread over seeds", recipes.seeds, recipes.caption_seeds, lambda f: len(recipes.repeated(f)) > 0),
    "sampling": Spec(
        "FID against sampling compute", settings.sampling, settings.caption_sampling,
        lambda frame: len(settings.samplers(frame)) > 0, across=("evaluate.steps", "evaluate.sampler"),
    ),
    "guidance": Spec(
        "Classifier-free guidance", settings.guidance, settings.caption_guidance, _measured("evaluate.guidance"),
        across=("evaluate.guidance", "evaluate.guidance_channels"),
    ),
    "samples": Spec(
        "Samples by size and patch", shape.sample_grid, shape.caption_sample_grid,
        lambda frame: _shapes(2)(frame) and one_way(frame) and len(set(frames.cells(frame)["recipe"])) == 1,
        needs_images=True,
    ),
    "fid_vs_compute": Spec(
        "FID against training compute", compute.fid_vs_compute, compute.caption_fid_vs_compute,
        lambda frame: _shapes(2)(frame) and _evaluated(frame)["train_gflops"].notna().any() and one_way(frame),
    ),
    "quality_vs_gflops": Spec(
        "Every quality metric against model Gflops", compute.quality_vs_gflops, compute.caption_quality_vs_gflops,
        lambda frame: _gflops(frame) and _shapes(3)(frame) and one_way(frame),
    ),
    "loss_curves": Spec(
        "Loss over training", curves.loss_curves, curves.caption_loss_curves,
        lambda frame: _models(1)(frame) and frame["loss"].notna().any() and _one_loss(frame) and one_way(frame),
    ),
}  # fmt: skip


def _gflops(frame: pd.DataFrame) -> bool:
    return _models(3)(frame) and frames.cells(frame)["model.gflops"].nunique() > 2


def _one_loss(frame: pd.DataFrame) -> bool:
    return all(frame[field].nunique() <= 1 for field in frames.LOSS)


def _shapes(least: int) -> Callable[[pd.DataFrame], bool]:
    """Several shapes: a sweep of one says nothing about Gflops."""
    return lambda frame: len(frames.cells(frame).drop_duplicates(list(frames.SHAPE))) >= least
