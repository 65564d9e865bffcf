"""The terminal view: counts, lines where there is no terminal, and an ETA that is arithmetic on the Gflops left."""

import io

import pytest
from rich.console import Console

from harness.launch import view
from harness.launch.view import Row, View
from harness.progress import QUIET_SECONDS, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is told to go on."""

    class Now:
        seconds = 1000.0

        def __iadd__(self, seconds):
            self.seconds += seconds
            return self

    time = Now()
    monkeypatch.setattr(view.time, "monotonic", lambda: time.seconds)
    return time


def shown(works=(100.0, 300.0, 600.0), terminal=False, finished=2):
    rows = {str(i): Row(f"DiT-{i}", 1000, work) for i, work in enumerate(works)}
    return View("sizes", rows, finished, Console(file=io.StringIO(), force_terminal=terminal, width=200))


def said(one):
    return one.console.file.getvalue().splitlines()


def test_eta_is_the_work_left_at_the_speed_so_far(now):
    one = shown()
    assert one.eta() is None
    one.begin("1")
    now += 50  # starting up: not counted, since nothing was done in it
    one.update("1", {"images": 100, "share": 0.1, "loss": 1.0})  # 30 of 1000
    assert one.eta() is None
    now += 10
    one.update("1", {"images": 300, "share": 0.3, "loss": 1.0})  # 90 of 1000: 6 a second
    assert one.eta() == pytest.approx((1000 - 90) / 6)
    one.end("1")  # 300
    assert one.eta() == pytest.approx((1000 - 300) / 27)


def test_a_resumed_trial_does_not_count_as_speed(now):
    one = shown(works=(100.0,))
    one.begin("0")
    one.update("0", {"images": 900, "share": 0.9, "loss": 1.0})  # from a checkpoint
    assert one.eta() is None
    now += 10
    one.update("0", {"images": 950, "share": 0.95, "loss": 1.0})
    assert one.eta() == pytest.approx(10)


def test_counts_follow_the_events(now):
    one = shown()
    states = ("waiting", "running", "done", "failed")
    assert [one.count(state) for state in states] == [3, 0, 0, 0]
    one.begin("0")
    one.begin("1")
    assert [one.count(state) for state in states] == [1, 2, 0, 0]
    one.end("0")
    one.end("1", "loss became nan at step 3")
    assert [one.count(state) for state in states] == [1, 0, 1, 1]
    now += 75
    assert one.headline().startswith("sizes: 3 done, 0 running, 1 failed, 1 to do  [1:15")
    assert one.rows["1"].reason == "loss became nan at step 3"
    one.end("2", "loss became inf at step 4", "diverged")
    assert one.headline().startswith("sizes: 3 done, 0 running, 1 diverged, 1 failed, 0 to do  [1:15")


def test_without_a_terminal_there_is_a_line_for_each_event_and_one_now_and_then(now):
    one = shown()
    with one:
        one.begin("0")
        for images in range(100, 600, 100):
            now += QUIET_SECONDS / 2 + 1
            one.update("0", {"images": images, "share": images / 1000, "loss": 0.5})
        one.update("0", {"images": 500, "share": 0.5, "fid": 123.4, "val_loss": 0.2})
        one.end("0")
        one.end("1", "its process died")
    lines = said(one)
    assert [line.split("  |  ")[0] for line in lines] == [
        "DiT-0: 100 images, loss 0.5000",  # the first at once
        "DiT-0: 300 images, loss 0.5000",
        "DiT-0: 500 images, loss 0.5000",
        "DiT-0: 500 images, FID 123.4, val_loss 0.2000",
        "DiT-0: done",
        "DiT-1: failed: its process died",
    ]
    assert all("  |  sizes: " in line and "\x1b" not in line for line in lines)
    assert "left]" in lines[-1]


def test_in_a_terminal_the_table_shows_what_is_known(now):
    one = shown(terminal=True)
    with one:
        one.begin("0")
        one.update("0", {"images": 500, "share": 0.5, "loss": 0.51234, "images_per_second": 81.6})
        one.update("0", {"images": 500, "share": 0.5, "fid": 123.4, "val_loss": 0.2})
        one.end("2", "no")
    console = Console(file=io.StringIO(), width=200)
    console.print(one.table())
    title, _, *rows = console.file.getvalue().splitlines()
    assert title.strip().startswith("sizes: 2 done, 1 running, 1 failed, 1 to do")
    assert rows[0].split() == ["DiT-0", "running", "500/1,000", "0.5123", "0.2000", "123.4", "82"]
    assert rows[1].split() == ["DiT-1", "waiting", "0/1,000"]  # nothing is measured, so nothing is shown
    assert rows[2].split() == ["DiT-2", "failed", "0/1,000"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75.9, "1:15"), (4000, "1:06:40"), (360_000, "100:00:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text
