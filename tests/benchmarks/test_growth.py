"""Seconds and peak memory of the commands as the number of cells and runs grows. There is no rival."""

import pytest
from crowd import SWEEP, fill
from measure import CPUS, ROUNDS, Finished, python

pytestmark = pytest.mark.benchmark

CELLS, RUNS, EVALUATIONS = 10_000, 1_000, 50


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """An output folder with a thousand runs of fifty evaluations."""
    out = tmp_path_factory.mktemp("crowd")
    fill(out, RUNS, EVALUATIONS)
    return out


@pytest.fixture
def command(record):
    """`command(case, *arguments)` runs `python arguments` in rounds and records the median seconds and most memory."""

    def measured(case: str, *arguments: str, note: str = "") -> None:
        rounds = min(3, ROUNDS)
        done: list[Finished] = sorted((python(*arguments) for _ in range(rounds)), key=lambda each: each.seconds)
        record(case, "s", done[rounds // 2].seconds, rounds=rounds, threads=CPUS, note=note)
        record(f"{case}, peak memory", "GiB", max(each.gib for each in done), rounds=rounds, threads=CPUS, note=note)

    return measured


def test_growth_of_a_plan(command, swept):
    plan, where = ("-m", "sweeps", "plan", "conditioning"), ("--scale", "cpu", "--out", str(swept.out))
    python(*plan, *where)  # measures this machine's speed once
    command("plan of 4 cells", *plan, *where, note="torch and what it imports to count operations, above all")
    command(f"plan of {CELLS:,} cells", *plan, "--set", f"seeds={CELLS // 4}", *where)


def test_growth_of_nothing_to_do(command, swept):
    command("a finished sweep, run again", *swept.command, note="eight trials, nothing left to train")


def test_growth_of_a_pull(command, crowd):
    code = f"from analysis.pull import pull; pull('sqlite:///{crowd / 'mlflow.db'}', '{SWEEP}')"
    command(f"pull of {RUNS:,} runs x {EVALUATIONS} evaluations", "-c", code)


def test_growth_of_a_report(command, crowd):
    arguments = ("-m", "analysis.report", "--sweep", SWEEP, "--out", str(crowd))
    command(f"report of {RUNS:,} runs x {EVALUATIONS} evaluations", *arguments, note="the pull is part of it")
