"""Estimators are given planted truth and must find it; the paper's own table must give the paper's own number."""

import numpy as np
import pandas as pd
import pytest
from conftest import EXPONENT

from analysis import fit, frames, paper


def test_the_papers_table_gives_the_papers_correlation():
    table = paper.scaling()
    r = fit.pearson(np.log10(table["model.gflops"]), table["fid"])
    assert (round(r.r, 2), r.n) == (paper.PEARSON, 12) == (-0.93, 12)
    assert r.low < r.r < r.high < -0.7
    assert round(fit.pearson(table["model.gflops"], table["fid"]).r, 3) == -0.725  # raw Gflops: not what Figure 8 has


def test_the_papers_table_holds_in_all_seventeen_pairs():
    found = fit.neighbours(paper.scaling())
    assert (fit.count(found.size), fit.count(found.patch)) == ("9 of 9", "8 of 8")
    assert [(p.smaller, p.larger) for p in found.size][:3] == [("S/8", "B/8"), ("B/8", "L/8"), ("L/8", "XL/8")]


def test_the_papers_power_law():
    law = fit.power_law(paper.scaling()["model.gflops"], paper.scaling()["fid"])
    assert (round(10**law.a, 1), round(law.b, 3), round(law.r2, 3)) == (137.8, -0.365, 0.875)


def test_a_planted_power_law_is_recovered(study):
    cells = frames.cells(study)
    law = fit.power_law(cells["model.gflops"], cells["fid"])
    assert law.b == pytest.approx(EXPONENT) and 10**law.a == pytest.approx(300) and law.r2 == pytest.approx(1)
    assert law([10.0])[0] == pytest.approx(300 * 10**EXPONENT)
    assert np.allclose(law.residuals, 0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, hits = np.random.default_rng(1), 0
    for _ in range(100):
        x = random.uniform(-2, 0, 30)
        law = fit.power_law(10**x, 10 ** (2 - 0.4 * x + 0.1 * random.standard_normal(30)), resamples=400)
        hits += law.b_low <= -0.4 <= law.b_high
    assert 85 <= hits <= 99


def test_the_interval_is_seeded_and_ignores_what_was_not_measured():
    x, y = np.arange(8.0), np.array([9, 7, 8, 5, 4, 4, 2, 1.0])
    assert fit.pearson(x, y) == fit.pearson(x, y)
    assert fit.pearson([*x, 9, np.nan], [*y, np.nan, 3]) == fit.pearson(x, y)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])])
def test_too_little_to_correlate_is_no_number(x, y):
    assert np.isnan(fit.pearson(x, y).r)


def test_few_models_have_no_interval():
    r = fit.pearson([1, 2, 3], [3, 1, 0])
    assert r.r < -0.9 and np.isnan(r.low) and np.isnan(fit.power_law([1, 2, 3], [3, 2, 1]).b_low)


def test_resamples_of_two_different_models_are_left_out():
    """Any two points lie on a line: kept, they would put the interval's end at -1."""
    x, _ = fit._resampled(np.arange(5.0), np.arange(5.0), 1000, seed=0)
    assert len(x) < 1000 and all(len(set(row)) > 2 for row in x)


def test_neighbours_go_by_gflops_and_name_the_exceptions(study):
    cells = frames.cells(study)
    cells.loc[(cells["model.size"] == "4x256x16") & (cells["model.patch"] == 2), "fid"] = 1e6
    cells = cells.sample(frac=1, random_state=3)
    found = fit.neighbours(cells)
    assert (fit.count(found.size), fit.count(found.patch)) == ("8 of 9", "7 of 8")
    assert [(p.smaller, p.larger) for p in found.exceptions] == [
        ("4x192x12/2", "4x256x16/2"),
        ("4x256x16/4", "4x256x16/2"),
    ]


def test_neighbours_pass_over_a_cell_that_failed(study):
    cells = frames.cells(study)
    cells.loc[cells["model.size"] == "3x128x8", "fid"] = np.nan
    assert len(fit.neighbours(cells).size) == 6 and len(fit.neighbours(cells).patch) == 6


def test_neighbours_compare_within_one_recipe_only():
    rows = [("A", 1, 8, 2, 4, 1.0, 9.0, "lr 1"), ("B", 2, 8, 2, 4, 2.0, 8.0, "lr 2")]
    shape = [f"model.{name}" for name in ("size", "depth", "width", "heads", "patch", "gflops")]
    cells = pd.DataFrame(rows, columns=[*shape, "fid", "recipe"])
    assert not fit.neighbours(cells).pairs
    assert fit.count(fit.neighbours(cells.drop(columns="recipe")).size) == "1 of 1"
    assert not fit.neighbours(cells.drop(columns="recipe").assign(**{"model.backbone": "unet"})).pairs


def test_neighbours_off_the_ladder_are_those_of_which_one_contains_the_other(shaped):
    """A lattice of three depths by three widths has twelve edges, whatever the order of Gflops across it."""
    found = fit.neighbours(frames.cells(shaped))
    assert len(found.size) == 12 and not found.patch
    edges = {(pair.smaller, pair.larger) for pair in found.size}
    assert ("2x64x2/4", "2x128x4/4") in edges and ("2x256x8/4", "4x64x2/4") not in edges


def test_envelope_keeps_what_nothing_cheaper_beats():
    x, y = fit.envelope([3, 1, 2, 4, 1], [5, 9, 9.5, 7, 10])
    assert (x.tolist(), y.tolist()) == ([1, 3], [9, 5])
    assert len(fit.envelope([], [])[0]) == 0


def test_published_rows_have_their_source():
    for table in (paper.models(), paper.headline(), paper.unet_gflops(), paper.sit()):
        assert len(table) and table["source"].notna().all()
    xl2 = paper.scaling().iloc[-1]
    assert xl2["train_gflops"] == pytest.approx(3.64e10, rel=0.01)  # the paper's text, section 5
