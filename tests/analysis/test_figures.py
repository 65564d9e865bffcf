"""Every figure draws from a synthetic study, says what it found, and refuses what does not belong on one axis."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE, frame_of, study_trials
from matplotlib.figure import Figure
from matplotlib.image import imsave

from analysis import frames, words
from analysis.claims.evidence import with_noise
from analysis.figures import FIGURES, backbones, compute, curves, objectives, recipes, settings, shape, style
from harness.config import SCALES, grid, shape_of


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
    "conditioned": {"conditioning", "loss_curves"},
    "shaped": {*SHARED, "depth_width"},
}
APPLIES["seeded"] = APPLIES["study"] | {"seeds"}
APPLIES["rated"] = {"learning_rate"}
APPLIES["scheduled"] = {"schedules"}
APPLIES["paired"] = {"backbones"}
COMPARING = (  # several ways of measuring or objectives on one axis
    ("stepped", "sampling"), ("guided", "guidance"), ("aimed", "objectives"), ("aimed", "diffusion_loss"),
)  # fmt: skip


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
    assert set().union(*APPLIES.values(), {name for _, name in COMPARING}) == set(FIGURES)


@pytest.mark.parametrize(("kind", "name"), COMPARING)
def test_ways_of_measuring_are_compared(kind, name, request):
    frame = request.getfixturevalue(kind)
    spec = FIGURES[name]
    assert spec.applies(frame) and len(frames.groups(frame, spec.across)) == 1 < len(frames.groups(frame))
    spec.draw(frame).draw_without_rendering()
    assert "paper" in spec.caption(frame)
    assert not any(spec.applies(part) for part in frames.groups(frame))


def test_sampling_compute_does_not_make_up_for_model_compute(stepped):
    """Planted: FID falls with Gflops and steps change nothing, so the larger model wins nearly every such pair."""
    cells = settings.sampled(stepped)
    one = cells[(cells["model.size"] == cells["model.size"].iloc[0]) & (cells["model.patch"] == 8)]
    assert sorted(one["compute"] / one["model.gflops"]) == [4, 16, 64]
    won, asked = settings.outspent(cells)
    assert asked > 50 and won / asked > 0.9
    cells["fid"] = 1 / cells["fid"]
    assert settings.outspent(cells)[0] / asked < 0.1


def test_the_compute_of_sampling_is_that_of_the_calls_that_were_told(aimed, guided):
    """Heun calls the model twice a step but for the last; runs of before tell no calls."""
    cells = settings.sampled(aimed[aimed["diffusion.objective"] == "edm"])
    assert (cells["compute"] / cells["model.gflops"]).tolist() == [15.0] * 3
    before = settings.sampled(guided.assign(**{"evaluate.calls": guided["evaluate.calls"].mask(guided["seed"] == 0)}))
    assert (
        before["evaluate.calls"].isna().all()
        and before["compute"].tolist() == settings.sampled(guided)["compute"].tolist()
    )


def by_both(stepped):
    """The same by DDPM, whose FID falls with its steps; by DDIM, the largest patch alone, best at 16."""
    ddpm = stepped.assign(**{
        "evaluate.sampler": "ddpm", "run_id": "ddpm " + stepped["run_id"],
        "fid": stepped["fid"] * (1 + 8 / stepped["evaluate.steps"].astype(float)),
    })  # fmt: skip
    ddim = stepped[stepped["model.patch"] == 8]
    ddim = ddim.assign(fid=ddim["fid"] * ddim["evaluate.steps"].map({4: 2.0, 16: 1.0, 64: 1.5}))
    return pd.concat([ddim, ddpm], ignore_index=True)


def test_samplers_have_a_panel_each_the_papers_first(stepped):
    both = by_both(stepped)
    figure = settings.sampling(both)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["DDPM, as in the paper", "DDIM"]
    assert [len(axes.lines) for axes in figure.axes] == [12, 4]
    caption = FIGURES["sampling"].caption(both)
    assert " by DDPM and in " in caption and " of 12 (" in caption  # pairs of one sampler each
    assert " DDPM at 4, 16, 64 steps: FID is lowest at 64 in the mean over models, " in caption
    assert " DDIM, which adds no noise, at 4, 16, 64 steps: FID is lowest at 16 in the mean over models, 1" in caption
    assert "% above that at 4 and " in caption and caption.endswith("% above that at 64.")
    alone = settings.sampling(stepped).axes
    assert len(alone) == 1 and "DDIM" in alone[0].figure.texts[1].get_text()


def test_one_sampler_of_several_steps_is_what_sampling_compares(study):
    """Another sampler with one number of steps is no line, and two of one each are no comparison."""
    once = study.assign(**{"evaluate.sampler": "ddpm", "run_id": "ddpm " + study["run_id"], "evaluate.steps": 250})
    mixed = pd.concat([study, once], ignore_index=True)
    assert settings.samplers(mixed) == [] and not FIGURES["sampling"].applies(mixed)
    more = once[once["model.patch"] == 8].assign(**{"evaluate.steps": 64})
    mixed = pd.concat([mixed, more.assign(run_id="64 " + more["run_id"])], ignore_index=True)
    (panel,) = settings.sampling(mixed).axes
    assert len(panel.lines) == 4 and "DDPM" in panel.figure.texts[1].get_text()


def test_guidance_asks_the_model_twice(guided):
    cells = settings.sampled(guided)
    calls = cells["compute"] / (cells["model.gflops"] * cells["evaluate.steps"])
    assert dict(zip(cells["evaluate.guidance"], calls, strict=True)) == {1.0: 1, 2.0: 2, 4.0: 2}


def test_the_spread_between_seeds_is_that_which_was_planted(seeded):
    spread, cells, runs = recipes.noise(seeded)
    assert (cells, runs) == (12, 36) and 0.03 < spread < 0.07  # 0.05 planted


def test_backbones_are_compared_where_their_gflops_are_equal(paired):
    found = backbones.pairs(frames.cells(paired))
    assert found["model.size"].tolist() == ["2x96x6", "2x96x6", "3x128x8", "4x192x12"]
    assert (found["fid"] < found["fid_dit"]).all()
    caption = FIGURES["backbones"].caption(paired)
    assert "lower FID with the DiT's own schedule in 1 of 1 (2x96x6 linear " in caption
    assert " and with another in 3 of 3 (2x96x6 cosine " in caption
    assert "the lower KID in 4 of 4 and the higher recall in 4 of 4" in caption
    assert len(backbones.backbones(paired).axes) == 3
    alone = paired.drop(columns=["kid", "recall"]).assign(kid=np.nan, recall=np.nan)
    assert len(backbones.backbones(alone).axes) == 1 and "KID" not in FIGURES["backbones"].caption(alone)
    dearer = paired["model.gflops"] * (1 + (paired["model.backbone"] == "unet"))
    assert backbones.pairs(frames.cells(paired.assign(**{"model.gflops": dearer}))).empty
    assert not FIGURES["backbones"].applies(paired.assign(**{"model.gflops": dearer}))


def test_each_model_has_its_best_rate(rated):
    best = recipes.best_rates(rated)
    finished = frames.finished(rated)
    assert best["fid"].tolist() == [
        finished[finished["model.size"] == size]["fid"].min() for size in frames.sizes(rated)
    ]
    caption = FIGURES["learning_rate"].caption(rated)
    assert ("One rate suits them all" in caption) == (best["train.lr"].nunique() == 1)
    assert "iverged" not in caption and "seed noise is not known" in caption


def test_a_rate_suits_a_model_where_seeds_might_make_it_the_best(rated):
    fids = {5e-4: 1.0, 1e-3: 1.1, 2e-3: 1.3}
    frame = rated.assign(fid=rated["train.lr"].map(fids).where(rated["fid"].notna()))
    assert set.union(*recipes.suitable_rates(frame, 0.0).values()) == {5e-4}
    assert set.intersection(*recipes.suitable_rates(frame, 0.04).values()) == {5e-4, 1e-3}  # 1.96 x 0.04 x root 2
    told = FIGURES["learning_rate"].caption(frame.assign(fid_noise=0.04))
    assert "One rate suits them all within seed noise: 0.0005 or 0.001." in told


def test_what_diverged_is_a_cross_above_its_learning_rate(rated):
    """Of the size's colour, at no FID: those it was measured at before are not of a finished run."""
    largest = frames.sizes(rated)[-1]
    fate = rated["status"].mask((rated["model.size"] == largest) & (rated["train.lr"] == 2e-3), "DIVERGED")
    frame = rated.assign(status=fate)
    assert FIGURES["learning_rate"].caption(frame).endswith(f" Diverged, so without a FID: {largest}/8 lr 0.002.")
    panel = recipes.learning_rate(frame).axes[0]
    (cross,) = (line for line in panel.lines if line.get_marker() == "x")
    assert cross.get_xdata()[0] == 2e-3 and 0.9 < cross.get_ydata()[0] < 1
    assert cross.get_color() == style.size_colours(frame)[largest]
    assert cross.get_transform() == panel.get_xaxis_transform()
    assert f"{largest}/8 diverged" in [text.get_text() for text in panel.texts]


def test_runs_that_came_to_a_bad_end_are_in_no_curve(seeded):
    """With them, a mean over seeds would change where one of them stops."""
    fate = seeded["status"].mask(seeded["seed"] == 1, "DIVERGED").mask(seeded["seed"] == 2, "FAILED")
    alone = frames.curves(seeded[seeded["seed"] == 0], "fid")
    for (_, line), (_, other) in zip(frames.curves(seeded.assign(status=fate), "fid"), alone, strict=True):
        pd.testing.assert_frame_equal(line, other)


def test_one_model_s_losses_have_its_size_s_colour_and_several_types_their_own(study, conditioned):
    one = study[(study["model.size"] == "4x192x12") & (study["model.patch"] == 4)]
    for frame, colours in ((one, style.size_colours(one).values()), (conditioned, style.CONDITIONING.values())):
        drawn = {line.get_color() for axes in curves.loss_curves(frame).axes for line in axes.lines}
        assert drawn == set(colours)


def test_a_long_subtitle_is_broken_and_the_figure_higher():
    short, long = (style.canvas(1, 1, 5, 3, "T", "word " * count)[0] for count in (3, 40))
    assert "\n" not in short.texts[1].get_text() and long.texts[1].get_text().count("\n") == 2
    assert long.get_figheight() == pytest.approx(short.get_figheight() + 0.28)


def test_a_type_of_conditioning_that_is_not_the_paper_s_has_a_colour(conditioned):
    kinds = conditioned["model.conditioning"].replace({"adaLN": "film", "in-context": "hyper"})
    colours = style.kind_colours(kinds)
    assert len({colours[kind] for kind in kinds}) == 4
    assert colours["adaLN-Zero"] == style.CONDITIONING["adaLN-Zero"]
    figure = FIGURES["conditioning"].draw(conditioned.assign(**{"model.conditioning": kinds}))
    assert any("film" in text.get_text() for text in figure.axes[1].texts)


def test_a_best_model_that_diverged_is_not_told_as_beaten(conditioned):
    zero = conditioned["model.conditioning"] == "adaLN-Zero"
    caption = FIGURES["conditioning"].caption(conditioned.assign(status=conditioned["status"].mask(zero, "DIVERGED")))
    assert "not best" not in caption and caption.endswith(" Diverged, so without a FID: 3x128x8/4 adaLN-Zero.")


OTHER = {"diffusion.objective": "flow", "diffusion.density": "logit-normal", "version": 1}


@pytest.mark.parametrize("field", OTHER)
@pytest.mark.parametrize("kind", set(APPLIES) - {"seeded"})
def test_two_objectives_or_versions_never_share_an_axis(field, kind, request):
    frame = request.getfixturevalue(kind)
    mixed = frame.copy()
    mixed.loc[mixed["run_id"] != mixed["run_id"].iloc[0], field] = OTHER[field]
    assert len(frames.groups(mixed)) == 2
    for name in APPLIES[kind] - {"samples"}:
        with pytest.raises(frames.MixedSettings, match=field):
            FIGURES[name].draw(mixed)


def test_every_setting_is_known_as_what_it_changes():
    """How a model is measured, what it is asked for, or else part of its recipe."""
    evaluated = {name for name in frames.settings() if name.startswith("evaluate.")} - set(frames.APART)
    asked = {name for name in frames.settings() if name.startswith(("diffusion.objective", "diffusion.density"))}
    assert evaluated <= set(frames.EVALUATION) and asked == set(frames.OBJECTIVE)


def test_an_outside_backbone_of_two_versions_is_two_recipes(study):
    mine = study.assign(**{"model.backbone": "mine:Net", "model.backbone.version": "mine 1"})
    newer = mine.assign(run_id="2 " + mine["run_id"], **{"model.backbone.version": "mine 2"})
    assert set(frames.cells(pd.concat([mine, newer]))["recipe"]) == {"version mine 1", "version mine 2"}


def test_the_objective_is_said_where_it_is_not_the_papers(study, aimed):
    assert "objective" not in words.subtitle(study) and words.objectives(study) == ["ddpm"]
    told = {name: words.subtitle(part) for part in frames.groups(aimed) for name in words.objectives(part)}
    assert set(told) == {"ddpm", "noise", "v", "flow", "flow, logit-normal(0, 1)", "edm"}
    assert told["flow"].count("objective flow, ") == 1 and "Euler 16 steps" in told["flow"]
    assert "objective flow, logit-normal(0, 1), " in told["flow, logit-normal(0, 1)"]
    assert "objectives ddpm / noise / v / flow / edm / flow, logit-normal(0, 1), " in words.recipe(aimed)
    own = aimed.iloc[0].replace({"ddpm": "mine.loss:Mine"})
    assert words.objective(own) == "Mine"
    assert words.objective(aimed.iloc[0].replace({"own": "uniform"})) == "ddpm, uniform"


def test_every_objective_is_a_line_of_its_own_colour_and_way_of_sampling(aimed):
    figure = objectives.objectives(aimed)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["FID-1K (lite0 features) ↓", "KID ↓"]
    for axes in figure.axes:
        assert sorted(line.get_color() for line in axes.lines) == sorted(
            colour for name, colour in style.OBJECTIVES.items() if name != "flow, uniform"
        )
        assert {len(line.get_xdata()) for line in axes.lines} == {3}
        texts = {text.get_text() for text in axes.texts}
        assert {"flow", "flow, logit-normal(0, 1)", "edm", "2x96x6/4", "3x128x8/4", "4x192x12/4"} <= texts
    told = figure.texts[1].get_text().replace("\n", " ")
    assert "DDIM 16 steps (ddpm / noise / v); Euler 16 steps (flow / flow, logit-normal(0, 1)); " in told
    assert told.endswith("Heun 8 steps of 15 calls in all (edm)")
    caption = objectives.caption_objectives(aimed)
    assert "57.6 against 68.4 (S/2)" in caption and "Linear velocity is ahead of noise prediction in 3 of 3." in caption
    assert ": flow, logit-normal(0, 1) " in caption and " < v " in caption


def test_an_objective_is_measured_as_most_of_its_models_were(aimed):
    """And of as many by what gives the lowest FID; of recipes that it shares with another."""
    ddpm = aimed["diffusion.objective"] == "ddpm"
    fewer = aimed[ddpm & (aimed["model.size"] == "2x96x6")].assign(fid=1.0, **{"evaluate.steps": 50})
    best = aimed[aimed["diffusion.objective"] == "flow"].assign(fid=1.0, **{"evaluate.sampler": "heun"})
    rated = aimed[ddpm].assign(fid=2.0, **{"train.lr": 1.0})
    again = [part.assign(run_id=f"{n} " + part["run_id"]) for n, part in enumerate((fewer, best, rated))]
    cells = objectives.compared(pd.concat([aimed, *again], ignore_index=True))
    ways = dict(
        zip(cells["objective"], zip(cells["evaluate.sampler"], cells["evaluate.steps"], strict=True), strict=True)
    )
    assert (ways["ddpm"], ways["flow"], ways["v"]) == (("ddim", 16), ("heun", 16), ("ddim", 16))
    assert len(cells) == 18 and set(cells["recipe"]) == {"lr 0.001"} and set(cells["said"]) == {""}


def test_errors_by_noise_level_are_those_of_the_largest_model_with_their_integral(aimed):
    cells = objectives.asked_alike(aimed)
    assert cells["objective"].tolist() == ["ddpm", "noise", "v", "flow", "flow, logit-normal(0, 1)", "edm"]
    assert set(cells["model.size"]) == {"4x192x12"}
    noise, image, ratio = objectives.diffusion_loss(aimed).axes
    assert noise.get_yscale() == image.get_yscale() == "log"
    edm = cells.iloc[-1]
    assert (
        noise.lines[-1].get_ydata()[0] == edm["noise_mse/-8"] and image.lines[-1].get_ydata()[-1] == edm["image_mse/8"]
    )
    assert ratio.get_title(loc="left") == "Either, over that of ddpm ↓"
    assert ratio.lines[-1].get_ydata() == pytest.approx([0.9] * 9)  # planted
    assert f"edm: {edm['diffusion_loss']:.3g}" in {text.get_text() for text in ratio.texts}
    bare = aimed.assign(**dict.fromkeys(frames.LEVELS, np.nan))
    assert not FIGURES["diffusion_loss"].applies(bare) and FIGURES["objectives"].applies(bare)
    assert not FIGURES["diffusion_loss"].applies(aimed[aimed["diffusion.objective"] == "edm"])


def test_objectives_without_timesteps_have_a_held_out_loss_all_the_same(aimed):
    flow = aimed[(aimed["diffusion.objective"] == "flow") & (aimed["diffusion.density"] == "own")]
    assert curves.loss_curves(flow).axes[-1].get_ylabel() == "Held-out diffusion loss"
    caption = curves.caption_loss_curves(flow)
    assert "Training loss: velocity MSE, averaged" in caption and "lower held-out loss in 2 of 2" in caption
    neither = flow.assign(diffusion_loss=np.nan)
    assert len(curves.loss_curves(neither).axes) == 1 and "Held-out" not in curves.caption_loss_curves(neither)


def labels(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts if "real images" in text.get_text()}


def test_every_figure_of_fid_shows_that_of_real_images(request):
    """A line, or an arrow at the edge; none where it was not measured."""
    cases = [*((kind, name) for kind in APPLIES for name in APPLIES[kind]), *COMPARING]
    for kind, name in cases:
        frame = request.getfixturevalue(kind)
        if name not in ("samples", "loss_curves", "diffusion_loss"):
            assert (
                labels(FIGURES[name].draw(frame)) <= {"real images 60", "↓ real images 60", "← real images 60"} != set()
            )
            assert labels(FIGURES[name].draw(frame)), name
    bare = request.getfixturevalue("study").assign(fid_floor=np.nan)
    assert not labels(compute.fid_vs_gflops(bare)) and not labels(curves.fid_by_size(bare))


@pytest.mark.parametrize("log", [True, False])
def test_an_axis_is_made_longer_for_real_images_only_while_the_data_keep_half_of_it(log):
    for value, near in ((165.0, True), (10.0, False), (700.0, True)):
        figure, axes = style.canvas(1, 1, 5, 3, "T", "")
        panel = axes[0][0]
        panel.plot([1, 2], [2400, 600])
        panel.set_ylim(600, 2400 if log else 1070)
        if log:
            style.log_axis(panel.yaxis)
        before = panel.get_ylim()
        style.floor(panel.yaxis, value)
        low, high = panel.get_ylim()
        assert (low < value) == near and high == before[1] and (near or (low, high) == before)
        (text,) = labels(figure)
        assert text == f"{'' if near else '↓ '}real images {value:g}" and len(panel.collections) == near
        assert all(low <= tick <= high for tick in panel.get_yticks()) or not log


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


def test_single_seeds_show_the_spread_that_others_have(seeded):
    """One cell keeps its seeds; the bars of the others are as long as its spread."""
    kept = (seeded["seed"] == 0) | ((seeded["model.width"] == 96) & (seeded["model.patch"] == 8))
    told = with_noise(seeded[kept].reset_index(drop=True))
    assert told["fid_noise"].nunique() == 1 and told["fid_noise"].iloc[0] == recipes.noise(told)[0]
    assert "Faint bars" in compute.caption_fid_vs_gflops(told)
    ranges, bars = compute.fid_vs_gflops(told).axes[0].collections[:2]
    assert len(ranges.get_segments()) == 12 and len(bars.get_segments()) == 11
    (_, low), (_, high) = bars.get_segments()[0]
    assert np.log(high / low) == pytest.approx(2 * told["fid_noise"].iloc[0])
    alone = with_noise(seeded[seeded["seed"] == 0])
    assert alone["fid_noise"].isna().all() and "Faint bars" not in compute.caption_fid_vs_gflops(alone)


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
    assert len(boxes) == 5  # four sizes and the real images
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


def test_a_size_has_one_colour_in_all_sweeps_of_a_scale(study):
    ladder = SCALES["cpu"].ladder
    rows = [dict(zip(frames.SHAPE, ("dit", *shape_of(size), 4), strict=True)) for size in ladder]
    every = pd.DataFrame(rows).assign(**{"model.size": ladder})
    colours = style.size_colours(every)
    assert len(set(colours.values())) == len(ladder)
    assert style.size_colours(every[every["model.size"] == ladder[2]]) == {ladder[2]: colours[ladder[2]]}
