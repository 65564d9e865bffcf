"""Every figure draws from a synthetic study, says what it found, and refuses what does not belong on one axis."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE, frame_of, study_trials
from matplotlib.figure import Figure
from matplotlib.image import imsave

from analysis import frames
from analysis.figures import FIGURES, compute, curves, shape, style
from harness.config import grid


@pytest.fixture
def sheets(study, tmp_path):
    """A sample sheet for each run but the last, of 8 x 8 tiles."""
    paths = {}
    for number, run_id in enumerate(study["run_id"].unique()[:-1]):
        paths[run_id] = tmp_path / f"{number}.png"
        imsave(paths[run_id], np.random.default_rng(0).random((256, 256)), cmap="gray")
    return paths


SHARED = {"fid_vs_gflops", "samples", "fid_vs_compute", "quality_vs_gflops", "loss_curves"}
APPLIES = {
    "study": {*SHARED, "fid_by_size", "fid_by_patch"},
    "conditioned": {"conditioning", "fid_vs_compute", "loss_curves"},
    "shaped": {*SHARED, "depth_width"},
}
APPLIES["seeded"] = APPLIES["study"]


@pytest.mark.parametrize("kind", APPLIES)
def test_figures_draw_where_they_apply(kind, request, sheets):
    frame = request.getfixturevalue(kind)
    assert {name for name, spec in FIGURES.items() if spec.applies(frame)} == APPLIES[kind]
    before = dict(matplotlib.rcParams)
    for name in APPLIES[kind]:
        spec = FIGURES[name]
        if spec.needs_images and kind != "study":
            continue
        figure = spec.draw(frame, sheets) if spec.needs_images else spec.draw(frame)
        assert isinstance(figure, Figure) and "paper" in spec.caption(frame)
        for axes in figure.axes:
            assert axes.get_title(loc="left") or axes.get_xlabel() or axes.get_title() or spec.needs_images
        figure.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before


def test_every_figure_is_drawn_by_some_study():
    assert set().union(*APPLIES.values()) == set(FIGURES)


@pytest.mark.parametrize("name", set(FIGURES) - {"samples", "loss_curves"})
def test_two_evaluation_settings_never_share_an_axis(name, study, conditioned, shaped):
    for frame in (study, conditioned, shaped):
        if FIGURES[name].applies(frame):
            mixed = frame.copy()
            mixed.loc[mixed["model.patch"] == mixed["model.patch"].iloc[-1], "evaluate.samples"] = 5_000
            mixed.loc[mixed["run_id"] == mixed["run_id"].iloc[0], "evaluate.samples"] = 1_000
            with pytest.raises(ValueError, match=r"evaluate.samples takes 2 values \(1000, 5000\)"):
                FIGURES[name].draw(mixed)


def test_losses_of_two_schedules_never_share_an_axis(study):
    study.loc[study["model.patch"] == 2, "diffusion.schedule"] = "cosine"
    with pytest.raises(frames.MixedSettings, match=r"diffusion\.schedule"):
        curves.loss_curves(study)


def test_settings_are_split_into_groups(study):
    study.loc[study["model.patch"] == 2, "evaluate.steps"] = 50
    parts = frames.groups(study)
    assert [part["run_id"].nunique() for part in parts] == [8, 4]
    for part in parts:
        frames.one_setting(part)


def test_a_run_that_never_said_its_digest_is_no_group_of_its_own(study):
    study.loc[study["run_id"] == study["run_id"].iloc[0], "data.digest"] = None
    assert len(frames.groups(study)) == 1


def test_an_empty_or_unfinished_study_has_no_figures(study):
    waiting = study.groupby("run_id").head(1).assign(status="RUNNING")
    for frame in (study.iloc[:0], waiting):
        assert [name for name, spec in FIGURES.items() if spec.applies(frame) and not spec.needs_images] == []


def test_only_finished_runs_count_as_models(study):
    run = study["run_id"].iloc[0]
    study.loc[study["run_id"] == run, "status"] = "FAILED"
    assert len(frames.cells(study)) == 11 and run not in set(frames.finished(study)["run_id"])


def test_seeds_are_averaged_with_their_range(seeded):
    cells = frames.cells(seeded)
    assert len(cells) == 12 and (cells["seeds"] == 3).all()
    assert ((cells["fid_low"] < cells["fid"]) & (cells["fid"] < cells["fid_high"])).all()
    (cell, line), *_ = frames.curves(seeded, "fid")
    assert len(line) == 3 and (line["low"] < line["mean"]).all() and cell["model.size"] == "2x96x6"


def test_a_setting_that_varies_within_a_shape_is_a_recipe():
    two = frame_of(grid(RECIPE, {"model.patch": (8, 4), "train.lr": (1e-3, 3e-4)}))
    assert set(frames.cells(two)["recipe"]) == {"lr 0.001", "lr 0.0003"}
    along = pd.concat([frame_of(grid(RECIPE | {"model.patch": p, "train.lr": 1e-3 / p})) for p in (8, 4)])
    assert set(frames.cells(along)["recipe"]) == {""}  # a learning rate that goes with the patch


def test_sizes_are_ordered_by_cost_and_coloured_alike(study):
    shuffled = study.sample(frac=1, random_state=0)
    assert frames.sizes(shuffled) == ["2x96x6", "3x128x8", "4x192x12", "4x256x16"] and frames.patches(shuffled) == [
        8,
        4,
        2,
    ]
    assert style.size_colours(shuffled) == style.size_colours(study)


def test_captions_are_honest_when_a_claim_fails(study, conditioned, shaped):
    worse = study.assign(fid=study["fid"].where(study["model.size"] != "4x256x16", 5e4))
    text = curves.caption_fid_by_size(worse)
    assert "lower in 6 of 9" in text and "Not so: 4x256x16/8 (50,000) is no better than 4x192x12/8" in text
    text = compute.caption_fid_vs_gflops(worse)
    assert "hardly, if at all" in text
    zero = conditioned["model.conditioning"] == "adaLN-Zero"
    assert "adaLN-Zero is best here too" in shape.caption_conditioning(conditioned)
    assert "not best" in shape.caption_conditioning(conditioned.assign(fid=conditioned["fid"].where(~zero, 9e9)))
    assert "6 of 6" in shape.caption_depth_width(shaped)


def test_labels_of_lines_do_not_overlap(study):
    figure = curves.fid_by_size(study.assign(fid=study["fid"] * 0 + 100 + study["model.width"] / 1e3))
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_the_paper_shares_an_axis_only_with_the_same_measurement():
    assert not compute.words.comparable(frame_of(study_trials()))
    same = {
        "data.dataset": "imagenet-256-latents", "evaluate.extractor": "inception", "evaluate.samples": 50_000,
        "evaluate.sampler": "ddpm", "evaluate.steps": 250,
    }  # fmt: skip
    paper_scale = frame_of(grid(RECIPE | same, {"model.size": ("S", "B"), "model.patch": (8, 4)}))
    assert compute.words.comparable(paper_scale)
    curves.fid_by_size(paper_scale)
    compute.fid_vs_gflops(paper_scale)
