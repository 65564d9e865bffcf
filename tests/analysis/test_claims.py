"""Each claim is given a planted truth, a planted falsehood and too little data, and must tell them apart."""

import numpy as np
import pandas as pd
import pytest
from conftest import LADDER, RECIPE, asked, frame_of, study_trials

from analysis import claims, fit
from analysis.claims import evidence
from harness.config import grid

KINDS = ("in-context", "cross-attention", "adaLN", "adaLN-Zero")


def typed(noise=0.02):
    return frame_of(grid(RECIPE, {"model.conditioning": KINDS, "seed": (0, 1, 2)}), noise=noise)


def repeated():
    """The study's twelve models from three seeds, so that their noise is known."""
    return frame_of(study_trials((0, 1, 2)), noise=0.001)


def verdicts(frame):
    return {claim.letter: claim.verdict for claim in claims.judge(frame)}


def rescaled(frame, by):
    """The frame with every FID multiplied by what `by` says of its row."""
    return frame.assign(fid=frame["fid"] * by(frame))


def sooner(frame):
    """More images help a model less than more Gflops: at equal compute the larger is ahead."""
    left = frame["images"].astype(float) / 32_768
    return rescaled(frame, lambda rows: left**0.3)


def costly(frame, ratio):
    frame = frame.copy()
    frame.loc[frame["model.conditioning"] == "cross-attention", "model.gflops"] *= ratio
    return frame


def upended(frame, name):
    """FID goes the other way along a setting."""
    factor = frame[name].rank(method="dense").astype(float)
    return rescaled(frame, lambda rows: 9.0 ** (factor if name != "model.patch" else -factor))


def steps_matter(frame):
    """Sampling compute, and nothing else, decides."""
    return frame.assign(fid=1e4 / (frame["model.gflops"] * frame["evaluate.steps"]))


def few(frame, count):
    return frame[frame["run_id"].isin(frame["run_id"].unique()[:count])]


@pytest.fixture
def made(study, stepped):
    """Letter -> frames in which its claim is true, false, and not to be told."""
    kinds = typed()
    zero = kinds["model.conditioning"] == "adaLN-Zero"
    aims = asked(noise=0.02, seeds=(0, 1, 2))
    flow = aims["diffusion.objective"] == "flow"
    return {
        "a": (kinds, rescaled(kinds, lambda rows: np.where(zero, 3.0, 1.0)), kinds[kinds["seed"] == 0]),
        "b": (study, upended(study, "model.width"), study[study["model.width"] <= 128]),
        "c": (study, upended(study, "model.patch"), study[study["model.width"] <= 128]),
        "d": (study, rescaled(study, lambda rows: 1 / rows["fid"] ** 2), few(study, 4)),
        "e": (sooner(study), repeated(), sooner(study[study["model.width"] <= 128])),
        "f": (stepped, steps_matter(stepped), stepped[stepped["model.width"] <= 96]),
        "g": (costly(kinds, 1.16), costly(kinds, 1.4), kinds[zero]),
        "h": (aims, rescaled(aims, lambda rows: np.where(flow, 1.5, 1.0)), aims[aims["seed"] == 0]),
    }


@pytest.mark.parametrize("letter", claims.CLAIMS)
def test_a_claim_tells_truth_from_falsehood_from_too_little(letter, made):
    found = [verdicts(frame).get(letter) for frame in made[letter]]
    exact = letter == "g"  # counted: it is either known or not asked
    assert found == [evidence.HOLDS, evidence.DOES_NOT_HOLD, None if exact else evidence.TOO_LITTLE]


def test_claims_that_the_runs_do_not_bear_on_are_left_out(study, conditioned):
    assert set(verdicts(study)) == {"b", "c", "d", "e"}
    assert set(verdicts(conditioned)) == {"a", "g"}
    assert verdicts(study.iloc[:0]) == {} == verdicts(study.assign(status="RUNNING"))


def test_a_difference_within_seed_noise_is_no_exception(seeded):
    """One pair is turned round, by less than seeds do and by more."""
    last = (seeded["model.width"] == 256) & (seeded["model.patch"] == 8)
    before = seeded[(seeded["model.width"] == 192) & (seeded["model.patch"] == 8)]["fid"].to_numpy()
    small, large = seeded.copy(), seeded.copy()
    small.loc[last, "fid"], large.loc[last, "fid"] = before * 1.005, before * 1.4
    assert verdicts(small)["c"] == verdicts(small)["b"] == evidence.HOLDS
    assert verdicts(large)["b"] == evidence.DOES_NOT_HOLD
    one = large[large["seed"] == 0]
    assert verdicts(one)["b"] == evidence.TOO_LITTLE  # an exception, and nobody knows what a seed does


def test_the_margin_is_students_and_narrows_with_seeds():
    noise = evidence.Noise(0.05, 9)
    assert noise.margin(1, 1) == pytest.approx(2.262 * 0.05 * 2**0.5, rel=1e-3)
    assert noise.margin(4, 4) == pytest.approx(noise.margin(1, 1) / 2) and noise.margin(1, 1, 27) > noise.margin(1, 1)
    assert np.isnan(evidence.Noise(np.nan, 0).margin(1, 1))


def test_the_largest_part_that_compares_is_judged(study):
    """Runs measured otherwise, of another recipe, or measured again, change nothing."""
    other = frame_of(grid(RECIPE | {"evaluate.samples": 64}, {"model.patch": (8, 4, 2)}))
    rated = frame_of(grid(RECIPE | {"model.size": "2x96x6", "model.patch": 8}, {"train.lr": (5e-4, 2e-3)}))
    again = frame_of(grid(RECIPE | {"model.size": "2x96x6", "model.patch": 8, "evaluate.points": 1}))
    unet = {"model.backbone": "unet", "model.patch": 1, "model.size": "1x32x1"}
    odd = [rescaled(frame, lambda rows: 1e-3) for frame in (rated, again, frame_of(grid(RECIPE | unet)))]
    mixed = pd.concat([other, *odd, study], ignore_index=True)
    assert claims.judge(mixed) == claims.judge(study)


def test_named_sizes_are_judged_without_the_lattice_beside_them():
    """A depth by width grid of the same recipe says in the detail that it is left out; alone it is judged."""
    ladder = grid(RECIPE, {"model.size": ("2x80", "3x112", "3x160", "4x208"), "model.patch": (8, 4, 2)})
    lattice = grid(RECIPE, {"model.size": [f"{depth}x{width}x2" for depth in (2, 4) for width in (96, 144)]})
    both, alone = (claims.judge(frame_of(trials)) for trials in ([*ladder, *lattice], ladder))
    for one, other in zip(both, alone, strict=True):
        assert one.statistic == other.statistic and one.verdict == other.verdict
        assert "4 models off the ladder of sizes are left out." in one.detail
    assert evidence.gather(frame_of(lattice)).cells["model.size"].nunique() == 4


def test_of_recipes_with_as_many_models_the_best_is_judged_and_named(rated):
    fids = rated["fid"] * rated["train.lr"].map({5e-4: 2.0, 1e-3: 1.0, 2e-3: 3.0})
    found = evidence.gather(rated.assign(fid=fids))
    assert set(found.rows["train.lr"]) == {1e-3}
    assert found.about == "Judged at lr 0.001, the best of 3 recipes with as many models."


def test_gflops_and_parameters_are_not_told_apart_at_one_patch(study):
    """There one is nearly a function of the other, and which explains more is chance."""
    shapes = [f"{depth}x{width}x2" for depth in (2, 3, 4, 6) for width in (96, 144, 192)]
    found = claims.scaling.correlated(frame_of(grid(RECIPE, {"model.size": shapes})))
    assert found.verdict == evidence.TOO_LITTLE and "not told apart" in found.detail


def test_a_few_seeds_excuse_no_exception(seeded):
    """Noise known from one degree of freedom has a margin of Student's t with one: everything would be within it."""
    last = (seeded["model.width"] == 256) & (seeded["model.patch"] == 8)
    before = seeded[(seeded["model.width"] == 192) & (seeded["model.patch"] == 8)]["fid"].to_numpy()
    frame = seeded.copy()
    frame.loc[last, "fid"] = before * 1.2
    cell = (frame["model.width"] == 96) & (frame["model.patch"] == 4)
    assert verdicts(frame[(frame["seed"] == 0) | (cell & (frame["seed"] == 1))])["b"] == evidence.TOO_LITTLE


def test_what_would_happen_later_is_not_told_of_runs_whose_noise_is_not_known(study):
    assert verdicts(repeated())["e"] == evidence.DOES_NOT_HOLD and verdicts(study)["e"] == evidence.TOO_LITTLE


def test_a_lead_is_only_one_that_lasts_by_more_than_seeds_make():
    """A straight line through both ends, each known to the margin, ten times the compute further."""
    lead = lambda start, end, margin: claims.scaling.Lead("s", "l", start, end, np.log(10), margin)  # noqa: E731
    assert lead(0.5, 0.4, 0.01).behind and not lead(0.9, 0.4, 0.01).behind  # it would be gone
    assert not lead(0.5, 0.4, 0.2).behind  # 0.3 after ten times the compute, to 0.2 x root 5
    assert lead(0.5, -0.1, 0.05).ahead and not lead(0.5, -0.1, 0.2).ahead
    assert lead(0.5, -0.1, np.nan).ahead and not lead(0.9, 0.9, np.nan).behind  # without noise nothing is foretold


def test_a_type_that_diverged_is_told():
    kinds = typed()
    zero, plain = (kinds["model.conditioning"] == name for name in ("adaLN-Zero", "adaLN"))
    lost = kinds.assign(status=kinds["status"].mask(plain, "DIVERGED"))
    other = kinds[plain].assign(status="DIVERGED", **{"train.lr": 1.0, "run_id": "other", "trial_id": "other"})
    found = claims.conditioning.best(pd.concat([lost, other]))
    assert found.verdict == evidence.TOO_LITTLE and found.detail.endswith(
        "Diverged, so without a FID: 3x128x8/4 adaLN."
    )
    none = claims.conditioning.best(kinds.assign(status=kinds["status"].mask(zero, "DIVERGED")))
    assert none.verdict == evidence.TOO_LITTLE and "no FID to compare" in none.statistic


def test_sizes_off_the_ladder_are_only_compared_where_one_contains_the_other(shaped):
    cells = evidence.gather(shaped).cells
    found = {(one["model.size"], other["model.size"]) for one, other in fit.adjacent(cells, "size")}
    assert len(found) == 12 and ("2x64x2", "4x64x2") in found and ("8x64x2", "2x128x4") not in found


def test_one_evaluation_says_nothing_of_every_stage():
    axes = {"model.size": LADDER, "model.patch": (8, 4, 2)}
    once = frame_of(grid(RECIPE | {"evaluate.points": 1}, axes))
    found = verdicts(once)
    assert (found["b"], found["c"]) == (evidence.TOO_LITTLE, evidence.HOLDS)


def test_the_table_has_a_row_a_claim(study):
    found = claims.judge(study)
    table = claims.table(found)
    assert table["letter"].tolist() == ["b", "c", "d", "e"] and set(table["verdict"]) <= set(claims.VERDICTS)
    assert table.notna().all(axis=None) and (table["statistic"].str.len() > 0).all()
    assert list(claims.table([])) == list(table)


def test_seeds_of_one_cell_are_one_model():
    frame = frame_of(study_trials((0, 1)), noise=0.01)
    assert "over 12 models" in next(claim.statistic for claim in claims.judge(frame) if claim.letter == "d")


def test_resamples_of_two_models_are_left_out_of_every_interval():
    """A line fits any two points, so that they would say nothing of the claim."""
    seen = []
    evidence.bootstrap(lambda drawn: seen.append(drawn) or drawn[:, 0], 5)
    assert len(seen[0]) < 10_000 and ((seen[0] > 0).sum(1) >= 3).all()


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.1, evidence.HOLDS), (0.2, evidence.TOO_LITTLE), (0.5, evidence.DOES_NOT_HOLD)]
)
def test_an_exception_is_excused_only_within_the_margin_of_one_comparison(gap, verdict):
    """Between that (0.16) and the margin of all of them (0.33) it counts for neither side."""
    pairs, noise = claims.scaling.pairs, evidence.Noise(0.05, 9)
    told = [[-1.0, -1.0, -1.0]] * 8 + [[-1.0, -1.0, gap]]
    stages = [tuple(pairs.Stage(n, value, (1, 1)) for n, value in enumerate(gaps)) for gaps in told]
    found = pairs.judged([pairs.Pair("a", "b", each) for each in stages], evidence.Evidence(None, noise, ""), "b leads")
    assert found.verdict == verdict


def of(frame, letter):
    return next(claim for claim in claims.judge(frame) if claim.letter == letter)


judge = claims.objectives.velocity


def aims(**options):
    return asked(**({"noise": 0.02, "seeds": (0, 1, 2)} | options))


def test_velocity_is_judged_against_noise_prediction_at_each_shape_by_the_noise_of_both():
    """Planted: 0.85 of its FID, and 0.9 of that with logit-normal times."""
    exact = judge(aims(noise=1e-9))
    assert exact.statistic.startswith(
        "linear velocity ahead of noise prediction at 3 of 3 models; its FID is 15.0% lower"
    )
    assert exact.statistic.endswith("; 15.0% lower in the geometric mean")
    assert (
        "With logit-normal(0, 1) times FID is 10.0% lower than with uniform ones (geometric mean of 3)." in exact.detail
    )
    assert "Each in its own way: ddpm by DDIM 16 steps, flow by Euler 16 steps." in exact.detail
    assert "(12 degrees of freedom)" in exact.detail  # two objectives, three shapes, three seeds: not the others' too
    frame = aims()
    smallest = frame["model.size"] == LADDER[0]
    both = frame["diffusion.objective"].isin(("ddpm", "flow")) & (frame["diffusion.density"] == "own")
    some = judge(frame[(frame["seed"] == 0) | (smallest & both)])
    assert some.verdict == evidence.HOLDS and "(4 degrees of freedom)" in some.detail and "seed noise" in some.interval


def test_one_shape_at_which_velocity_is_not_ahead_beyond_seed_noise_leaves_it_open():
    frame = aims()
    tied = (frame["model.size"] == LADDER[1]) & (frame["diffusion.objective"] == "flow")
    found = judge(rescaled(frame, lambda rows: np.where(tied, 1 / 0.85, 1.0)))
    assert found.verdict == evidence.TOO_LITTLE and f"at {LADDER[1]}/4" in found.interval
    behind = judge(rescaled(frame, lambda rows: np.where(tied, 1.5, 1.0)))
    assert behind.verdict == evidence.DOES_NOT_HOLD and "ahead of noise prediction at 2 of 3" in behind.statistic


def test_uniform_times_are_sits_whether_told_or_not_and_another_recipe_is_no_rival():
    frame = aims()
    flow = frame["diffusion.objective"] == "flow"
    uniform = frame.assign(
        **{
            "diffusion.density": frame["diffusion.density"].mask(
                flow & (frame["diffusion.density"] == "own"), "uniform"
            )
        }
    )
    assert judge(uniform).statistic == judge(frame).statistic
    assert not judge(frame.assign(**{"train.lr": frame["train.lr"].mask(flow, 9.0)}))
    assert not judge(frame[~flow]) and not judge(frame[flow])


def test_a_velocity_that_diverged_is_told_and_keeps_the_claim_open():
    frame = aims()
    lost = (frame["model.size"] == LADDER[2]) & (frame["diffusion.objective"] == "flow")
    found = judge(frame.assign(status=frame["status"].mask(lost & (frame["diffusion.density"] == "own"), "DIVERGED")))
    assert found.verdict == evidence.TOO_LITTLE and "at 2 of 2 models" in found.statistic
    assert found.detail.endswith("Diverged, so without a FID: 4x192x12/4 flow.")


def test_the_paper_s_claims_are_judged_on_its_objective_and_on_the_newest_code(study):
    """Where as many models are of them; else on what there is, which is told."""
    flow = study.assign(fid=study["fid"] / 2, run_id="flow " + study["run_id"], **{"diffusion.objective": "flow"})
    assert claims.judge(pd.concat([flow, study])) == [*claims.judge(study), of(pd.concat([flow, study]), "h")]
    assert "Judged with the objective flow." in of(flow, "c").detail
    larger = pd.concat([flow, study[study["model.width"] <= 128]])
    assert "Judged with the objective flow." in of(larger, "c").detail
    old = study.assign(fid=study["fid"] * 2, run_id="old " + study["run_id"], version=1)
    both = of(pd.concat([old, study]), "c")
    assert both.statistic == of(study, "c").statistic and "Judged on runs of version 2 of the code." in both.detail


def test_sampling_is_judged_by_the_papers_sampler_where_it_was_varied(stepped):
    ddpm = stepped.assign(**{"evaluate.sampler": "ddpm", "run_id": "ddpm " + stepped["run_id"]})
    few = steps_matter(ddpm[ddpm["model.patch"] == 4])
    found = of(pd.concat([stepped, few]), "f")
    assert "at 4, 16, 64 DDPM steps." in found.detail and found.statistic == of(few, "f").statistic
    assert "at 4, 16, 64 DDIM steps." in of(stepped, "f").detail
    lone = ddpm[(ddpm["model.patch"] == 4) & (ddpm["model.width"] == 96)]
    assert "DDIM steps." in of(pd.concat([stepped, lone]), "f").detail  # one model is no pair


def test_the_overhead_is_of_one_dataset_and_objective_at_a_time():
    """Other channels or tokens, or twice the output, change Gflops too."""
    kinds = costly(typed(), 1.16)
    latents = kinds.assign(**{"data.dataset": "latents", "model.gflops": kinds["model.gflops"] * 3})
    flow = kinds.assign(**{"diffusion.objective": "flow", "model.gflops": kinds["model.gflops"] * 0.98})
    for other, names in ((latents, ("/4 on fashion-mnist: ", "/4 on latents: ")), (flow, ("/4: ",))):
        for order in ([kinds, other], [other, kinds]):
            crossed = pd.concat(order, ignore_index=True)
            zero = crossed["model.conditioning"] == "adaLN-Zero"
            found = of(pd.concat([crossed[zero], crossed[~zero][::-1]]), "g")
            assert found.verdict == evidence.HOLDS
            assert found.statistic == of(kinds, "g").statistic and all(name in found.detail for name in names)


def test_two_ways_of_measuring_are_no_two_seeds():
    """The noise is that between seeds of one objective, whichever others lie beside."""
    frame = aims(noise=1e-9)
    assert evidence.noise(frame).sd < 1e-6 and evidence.noise(frame).free == 36
