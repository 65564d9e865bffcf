"""The page stands alone, names every run, and has a plain line where there is nothing to show."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import LADDER, RECIPE, asked, frame_of, measured, rows, study_trials
from matplotlib.image import imsave

from analysis import claims, headline, pull, report, sections, tables
from harness.config import grid


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    study, folder = frame_of(study_trials()), tmp_path_factory.mktemp("page")
    failed = pd.DataFrame([{**rows(study_trials((1,))[0], status="FAILED")[2], "failure": "loss is nan at step 96"}])
    sheet = folder / "sheet.png"
    imsave(sheet, np.zeros((256, 256)), cmap="gray")
    frame = pull.conform(pd.concat([study, pull.conform(failed)]))
    path = report.compose(frame, {study["run_id"].iloc[0]: sheet}, "sizes", folder / "reports" / "sizes")
    return frame, path


def test_the_page_stands_alone(page):
    text = page[1].read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*(?!"data:)|@import|url\(|<script|<link""", text)
    assert text.count("<img ") == text.count('src="data:image/') == 7
    assert str(page[1].parent) not in text


def test_the_page_names_every_run_and_its_fate(page):
    frame, path = page
    text = path.read_text(encoding="utf-8")
    for name in frame["name"].unique():
        assert f"<td>{name}<" in text
    assert text.count(">loss is nan at step 96<") == text.count(">failed<") == 1
    assert "13 runs: 12 finished, 1 failed." in text


def test_headline_numbers_come_first(page):
    text = page[1].read_text(encoding="utf-8")
    shown = re.findall(r'class="number">([^<]+)<', text)
    assert shown[1:3] == ["9 of 9", "8 of 8"] and float(shown[0]) < -0.85
    assert text.index('class="number"') < text.index("<figure") < text.index("All runs") < text.index("How to read")
    assert "The paper: -0.93" in text


def test_figures_and_numbers_lie_beside_the_page(page):
    frame, path = page
    stems = {file.stem for file in path.parent.glob("*.png")}
    assert stems == {file.stem for file in path.parent.glob("*.svg")} and "fid_vs_gflops" in stems
    pd.testing.assert_frame_equal(pd.read_parquet(path.parent / "runs.parquet"), frame)


def test_the_table_prints_a_dash_for_what_was_not_measured(page):
    row = tables.runs(page[0])[-1]
    assert row["status"] == "failed" and row["values"]["FID ↓"] == "" and row["values"]["Loss ↓"]
    assert sum(row["best"] for row in tables.runs(page[0])) == 1


def test_settings_get_a_section_each(study, tmp_path):
    study.loc[study["model.patch"] == 2, "evaluate.samples"] = 500
    text = report.compose(study, {}, "mixed", tmp_path).read_text(encoding="utf-8")
    assert "Setting 1 of 2" in text and "500 samples" in text


def test_nothing_finished_is_one_plain_line(study, tmp_path):
    running = study.groupby("run_id").head(1).assign(status="RUNNING")
    text = report.compose(running, {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "Nothing has finished yet: 12 running." in text and "<figure" not in text
    text = report.compose(study.iloc[:0], {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "no run has been started" in text


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Three sweeps that share cells, and their page."""
    study = frame_of(study_trials()).assign(sweeps="sizes")
    study.loc[study["model.size"] == "4x256x16", "sweeps"] = "sizes patch"
    kinds = frame_of(grid(RECIPE, {"model.conditioning": ("adaLN", "cross-attention", "in-context")}))
    shared = (study["model.size"] == "3x128x8") & (study["model.patch"] == 4)
    study.loc[shared, "sweeps"] = "homemade conditioning sizes"
    frame = pull.conform(pd.concat([kinds.assign(sweeps="conditioning"), study]))
    folder = tmp_path_factory.mktemp("everything") / "reports" / "study"
    (folder / "samples").mkdir(parents=True)
    sheet = folder / "samples" / f"{study['run_id'].iloc[0]}.png"
    imsave(sheet, np.zeros((256, 256)), cmap="gray")
    return frame, report.compose_study(frame, {sheet.stem: sheet}, folder)


def test_all_sweeps_have_a_chapter_each_in_the_papers_order(everything):
    text = everything[1].read_text(encoding="utf-8")
    assert re.findall(r'<h2 class="sweep">(\w+)<', text) == ["sizes", "patch", "conditioning", "homemade"]
    figures = re.findall(r'<figure id="([^"]+)"', text)
    assert {"sizes-fid_vs_gflops", "patch-fid_by_patch", "conditioning-conditioning"} <= set(figures)
    assert len(set(figures)) == len(figures)
    numbers = [int(number) for number in re.findall(r"<b>Figure (\d+)\.", text)]
    assert numbers == list(range(1, len(figures) + 1))
    assert (everything[1].parent / "patch" / "fid_by_patch.svg").is_file()


def test_all_runs_are_listed_once_with_the_sweeps_that_hold_them(everything):
    frame, path = everything
    text = path.read_text(encoding="utf-8")
    assert "15 runs in 4 sweeps: 15 finished." in text
    for name in frame["name"].unique():
        assert text.count(f"<td>{name}<") == 1
    assert text.count("homemade, conditioning, sizes") == 1


def test_claims_come_first_and_lie_beside_the_page(everything):
    text = everything[1].read_text(encoding="utf-8")
    assert re.findall(r'id="claim-(\w)"', text) == ["a", "b", "c", "d", "e", "g"]
    assert text.index('id="claim-a"') < text.index("<figure") < text.index('id="models"') < text.index('id="runs"')
    assert "do not bear on: More sampling compute" in text
    table = pd.read_csv(everything[1].parent / "claims.csv")
    assert table["letter"].tolist() == ["a", "b", "c", "d", "e", "g"]
    assert set(table["verdict"]) <= set(claims.VERDICTS)


def test_our_models_stand_beside_the_papers(everything):
    frame, path = everything
    assert len(tables.models(frame)) == 15 and len(tables.published()) == 17
    values = tables.published()[0]["values"]
    assert (values["Gflops"], values["FID ↓"], values["Params (M)"]) == ("0.360", "153.6", "33")
    text = path.read_text(encoding="utf-8")
    assert text.count("<td>DiT-XL/2<") == 6 and text.count("<td>DiT-4x256x16/2<") == 1


def test_the_page_of_all_sweeps_is_redrawn_alike_from_parquet(everything, tmp_path):
    again = report.redraw(everything[1].parent / "runs.parquet", None, tmp_path)
    assert again == tmp_path / "reports" / "study" / "report.html"
    assert again.read_bytes() == everything[1].read_bytes()


def test_one_sweep_is_drawn_from_the_parquet_of_all(everything, tmp_path):
    path = report.redraw(everything[1].parent / "runs.parquet", "patch", tmp_path)
    assert set(pd.read_parquet(path.parent / "runs.parquet")["model.size"]) == {"4x256x16"}


def test_sweeps_of_the_paper_have_their_place_in_the_report():
    from sweeps.paper import SWEEPS

    assert [name for name in report.SWEEPS if name in SWEEPS] == list(SWEEPS)


def _command(*arguments, **options):
    command = [sys.executable, "-m", "analysis.report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_command_redraws_from_parquet(page, tmp_path):
    source = page[1].parent / "runs.parquet"
    done = _command("--sweep", "again", "--out", str(tmp_path / "out"), "--from", str(source))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "reports" / "again" / "report.html").is_file() and "12 finished" in done.stdout


def test_the_command_says_what_is_missing_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = _command("--sweep", "sizes", "--out", str(tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no tracking store" in done.stderr


def test_analysis_needs_neither_torch_nor_ray_and_does_nothing_on_import():
    code = (
        "import sys, analysis.report, analysis.pull; "
        "print([name for name in ('torch', 'ray', 'mlflow', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() in ("[]", "['matplotlib.pyplot']"), done.stdout + done.stderr


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn and not written: half the time."""
    monkeypatch.setattr(sections, "_save", lambda figure, stem: "data:image/png;base64,")


def committed(frame, commits):
    """The frame with the commit of each run in its tags, in turn."""
    of = dict(zip(frame["run_id"].unique(), itertools.cycle(commits), strict=False))
    return frame.assign(tags=[f'{{"git_commit": "{of[run]}"}}' if of[run] else "{}" for run in frame["run_id"]])


def test_the_page_says_which_code_made_its_runs(study, tmp_path, unsaved):
    study = study[study["images"] == study["images"].max()]  # nothing over training
    frame = committed(study, ("0123abcdef", "0123abcdef", "89ab0123cd+"))
    text = report.compose(frame, {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "<dt>Code</dt><dd>version 2: commit 0123abc (8 runs), 89ab012+ (4 runs)</dd>" in text
    assert 'class="warning"' not in text and "git_commit" not in text
    one = report.compose(committed(study, ("0123abcdef",)), {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "commit 0123abc (12 runs)" in one and "git_commit" not in one
    none = report.compose(study, {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "<dt>Code</dt><dd>version 2</dd>" in none


def test_the_page_warns_of_versions_that_it_holds_together(study, tmp_path, unsaved):
    study.loc[study["model.patch"] == 2, "version"] = 1
    text = report.compose(committed(study, ("0123abcdef",)), {}, "mixed", tmp_path).read_text(encoding="utf-8")
    assert (
        text.count('<p class="warning">These runs were made by versions 1 and 2 of the code, which give different') == 1
    )
    assert "version 1: commit 0123abc (4 runs); version 2: commit 0123abc (8 runs)" in text
    assert "Setting 1 of 2" in text
    study.loc[study["model.patch"] == 4, "version"] = 3
    assert "versions 1, 2 and 3 of" in report.mixed(study)


def test_real_images_stand_beside_the_models(study, tmp_path, unsaved):
    assert tables.runs(study)[0]["values"]["Real FID"] == tables.models(study)[0]["values"]["Real FID"] == "60.0"
    assert headline.numbers(study)[-1].detail.endswith(" Gflops; real images: 60")
    text = report.compose(study, {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert text.count("<th>Real FID</th>") == 2  # of our models and of all runs, not of the paper's
    before = study.assign(fid_floor=np.nan, diffusion_loss=np.nan)
    text = report.compose(before, {}, "sizes", tmp_path).read_text(encoding="utf-8")
    assert "real images:" not in text and "<th>Real FID</th>" not in text and "<th>Diff. loss ↓</th>" not in text


def test_each_objective_has_a_section_of_its_own_after_their_comparison(aimed, tmp_path, unsaved):
    aimed = aimed[aimed["diffusion.objective"].isin(("ddpm", "flow", "edm"))]
    found = sections.sections(aimed, {}, tmp_path)
    assert [figure.name for figure in found[0]["figures"]] == ["objectives", "diffusion_loss"] and found[0]["compares"]
    own = found[1:]
    assert len(own) == 4 and not any(section["compares"] for section in own)
    for section in own:
        assert {"fid_vs_gflops", "loss_curves"} <= {figure.name.split("-")[0] for figure in section["figures"]}
        assert [law.part for law in section["laws"]] == ["all models", "patch 4"] and section["headline"]
    assert sum("objective edm, " in section["setting"] for section in own) == 1
    once = aimed[aimed["images"] == aimed["images"].max()]
    page = report.compose(once, {}, "objectives", tmp_path).read_text(encoding="utf-8")
    assert "Setting 5 of 5" in page and page.count("Compared on one axis") == 1


def test_a_comparison_hides_no_other_figure(study, tmp_path, unsaved):
    """What was measured once in each of several ways is drawn in the comparison alone; all else by itself too."""
    only = sections.sections(measured({"evaluate.steps": (4, 16, 64)}), {}, tmp_path)
    assert [[figure.name for figure in section["figures"]] for section in only] == [["sampling"]]
    steps = measured({"evaluate.steps": (4, 64)})
    one = steps[(steps["model.size"] == LADDER[0]) & (steps["model.patch"] == 8)]
    found = sections.sections(pd.concat([study, one], ignore_index=True), {}, tmp_path)
    assert [section["compares"] for section in found] == [True, False]
    assert "fid_by_size" in {figure.name for figure in found[1]["figures"]}


def test_a_model_s_objective_is_part_of_its_name_where_it_is_not_the_paper_s():
    frame = asked()
    flow = frame[(frame["diffusion.objective"] == "flow") & (frame["diffusion.density"] == "logit-normal")]
    assert tables.models(flow)[0]["name"] == "DiT-2x96x6/4 flow, logit-normal(0, 1)"
    assert tables.models(frame)[0]["name"] == "DiT-2x96x6/4"
    assert sum(row["best"] for row in tables.runs(frame)) == 0  # of two objectives none is best of all


def test_a_setting_of_which_nothing_has_finished_has_no_section(study, tmp_path, unsaved):
    waiting = study[study["run_id"] == study["run_id"].iloc[0]].assign(run_id="waiting", status="RUNNING", fid=np.nan)
    both = pd.concat([study, waiting.assign(**{"diffusion.objective": "flow"})], ignore_index=True)
    assert len(sections.sections(both, {}, tmp_path)) == 1
