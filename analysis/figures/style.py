"""How every figure looks: one theme held for the time of a drawing, colour by size, marker by patch, direct labels."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, pairwise
from textwrap import wrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from analysis import frames
from analysis.words import plain, short
from harness.config import SCALES

INK, MUTED, FAINT, PAPER = "#1d2530", "#68717d", "#d9dde2", "#9aa3ad"
LETTERS = 17.5  # of a subtitle in an inch
MOST_LABELS = 40  # points of one panel that still get a label each
ROOM = 0.45  # of an axis that the data keep where it is made longer for the real images' FID
MARKERS = {1: "^", 2: "o", 4: "D", 8: "s", 16: "X"}
Label = tuple[float, float, str, str]  # x, y, text, colour
_DASHES, _OTHERS = {1: "-", 2: "-", 4: (0, (5, 2)), 8: (0, (1.2, 1.6))}, (0, (6, 2, 1.2, 2))
# Light to dark and warm to cold at once: the order survives greyscale and the common colour blindnesses.
_LADDER = LinearSegmentedColormap.from_list("ladder", ["#efa42f", "#df5b43", "#a3346f", "#503b8f", "#14284f"])
CONDITIONING = {"in-context": "#7b8794", "cross-attention": "#efa42f", "adaLN": "#3d8fb5", "adaLN-Zero": "#a3346f"}
OBJECTIVES = {
    "ddpm": "#14284f", "noise": "#7b8794", "v": "#efa42f", "flow": "#a3346f", "flow, uniform": "#c46a9a",
    "flow, logit-normal(0, 1)": "#df5b43", "edm": "#3d8fb5",
}  # fmt: skip
SPARE = ("#503b8f", "#df5b43", "#14284f")
CATEGORIES = ("#a3346f", "#3d8fb5", "#efa42f", "#503b8f", "#7b8794")  # of what has no order

_THEME = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "text.color": INK, "svg.fonttype": "path", "svg.hashsalt": "figure",
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.linewidth": 0.7, "axes.labelsize": 8.5,
    "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#eceef1", "grid.linewidth": 0.7, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "xtick.major.size": 3, "ytick.major.size": 3,
    "lines.linewidth": 1.6, "lines.markersize": 4.5, "lines.markeredgewidth": 0.6, "figure.facecolor": "white",
    "savefig.dpi": 160, "legend.frameon": False, "legend.fontsize": 7.5,
}  # fmt: skip


@contextmanager
def theme() -> Iterator[None]:
    """matplotlib's settings for our figures, put back afterwards."""
    with matplotlib.rc_context(_THEME):
        yield


def canvas(
    rows: int, columns: int, width: float, height: float, title: str, subtitle: str, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches with its title and subtitle, and its (rows, columns) axes.

    A subtitle that is too long for the width makes the figure higher by its further lines.
    """
    lines = wrap(subtitle, int(LETTERS * width)) or [""]
    head = 0.58 + 0.14 * (len(lines) - 1)
    height, subtitle = height + head - 0.58, "\n".join(lines)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height), w_pad=0.08, h_pad=0.06)
    figure.text(0.09 / width, 1 - 0.09 / height, title, ha="left", va="top", fontsize=11, fontweight="bold")
    figure.text(
        0.09 / width, 1 - 0.32 / height, subtitle, ha="left", va="top", fontsize=7.5, color=MUTED, linespacing=1.3
    )
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def settle(figure: Figure) -> Figure:
    """Fix the layout, so that labels can be placed by where things are on the page."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def size_colours(frame: pd.DataFrame) -> dict[str, str]:
    """Each size's colour, smallest first: by its place in the ladder of a scale that holds them all, else in the frame.

    So a size has one colour in all sweeps of a scale.
    """
    names = frames.sizes(frame)
    ladder = next((scale.ladder for scale in SCALES.values() if set(names) <= set(scale.ladder)), names)
    places = dict(zip(ladder, np.linspace(0, 1, max(len(ladder), 2)), strict=False))
    return {name: to_hex(_LADDER(places[name])) for name in names}


def kind_colours(kinds: Iterable[str], known: Mapping[str, str] = CONDITIONING) -> dict[str, str]:
    """Each conditioning type's colour (or objective's): one for good for each that is known, what is left for others.

    In the order of those known.
    """
    others = [kind for kind in dict.fromkeys(kinds) if kind not in known]
    left = [colour for colour in (*SPARE, "#4f8a5b", "#9a6b3f") if colour not in known.values()]
    return {**known, **dict(zip(others, cycle(left or SPARE), strict=False))}


def marker(patch: int) -> str:
    return MARKERS.get(int(patch), "P")


def dashes(patches: Sequence[int]) -> dict[int, object]:
    """Each patch's line: the finer, the more solid."""
    return {int(patch): _DASHES.get(int(patch), _OTHERS) for patch in patches}


def log_axis(axis: Axis, say: Callable[[float], str] | None = None) -> None:
    """A logarithmic axis with plain numbers, a handful of them however short or long it is."""
    axis._set_axes_scale("log")
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 0.35:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    else:
        thirds = (1, 1.5, 2, 3, 4, 5, 7) if decades < 0.8 else (1, 2, 5) if decades < 2.2 else (1, 3)
        ticks = LogLocator(subs=(1,) if decades > 3.5 else thirds, numticks=30).tick_values(low, high)
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high and tick > 0]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: (say or plain)(value)))


def floor(axis: Axis, value: float, told: bool = True) -> None:
    """A dotted line at the FID of real images, the axis made longer for it while the data keep `ROOM` of it.

    Where that lies further below, an arrow at the axis' edge says so. Nothing where it was not measured (NaN). Call
    when scale and limits are set. told: with its label, which one panel of a row need have.
    """
    if not value > 0:
        return
    axes, upright, log = axis.axes, axis.axis_name == "y", axis.get_scale() == "log"
    (low, high), place = axis.get_view_interval(), np.log if log else float
    near = low <= value or place(high) - place(low) >= ROOM * (place(high) - place(value))
    if value < low and near:
        beyond = 0.06 * (place(high) - place(value))
        (axes.set_ylim if upright else axes.set_xlim)(value * np.exp(-beyond) if log else value - beyond, high)
        if log:
            log_axis(axis)
    look = {"transform": axes.get_yaxis_transform() if upright else axes.get_xaxis_transform()}
    if near:
        (axes.hlines if upright else axes.vlines)(value, 0, 1, color=MUTED, lw=0.9, ls=(0, (1, 2)), zorder=1, **look)
    else:
        look["transform"] = axes.transAxes
    if told:
        text = f"real images {plain(float(f'{value:.3g}'))}"
        text = text if near else f"{'↓' if upright else '←'} {text}"
        left = near or not upright or not _crossed(axes)
        at = (0.01 if left else 0.99, value if near else 0) if upright else (value if near else 0, 0.98)
        axes.annotate(
            text, at, (1, 2) if upright else (3, 0), look["transform"], textcoords="offset points", fontsize=6.5,
            color=MUTED, ha="left" if left else "right", va="bottom" if upright else "top", path_effects=_halo(),
        )  # fmt: skip


def _crossed(axes: Axes) -> bool:
    """Does a line pass the lower left corner?"""
    drawn = [
        line.get_xydata() for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata())
    ]
    places = [axes.transAxes.inverted().transform(_along(axes, vertices)) for vertices in drawn]
    return any(bool(((at[:, 0] < 0.3) & (at[:, 1] < 0.1)).any()) for at in places)


def images_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def legend(figure: Figure, panel: Axes, frame: pd.DataFrame) -> None:
    """Colours of sizes and markers of patches in one line below the title: for figures with no room for labels."""
    looks = [{"marker": "o", "color": colour, "label": size} for size, colour in size_colours(frame).items()]
    looks += [{"marker": marker(p), "color": MUTED, "label": f"patch {p}"} for p in frames.patches(frame)]
    handles = [panel.plot([], [], ls="", **look)[0] for look in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 10), handletextpad=0.2)


def end_labels(axes: Axes, ends: Sequence[Label], size: float = 7.5) -> None:
    """Write each text right of its line's end, moved up or down until none overlaps. Call after `settle`."""
    if not ends:
        return
    points = axes.transData.transform([(x, y) for x, y, *_ in ends])
    lines = np.array([1 + text.count("\n") for _, _, text, _ in ends])
    order = np.argsort(points[:, 1], kind="stable")
    gaps = size * 1.25 * axes.figure.dpi / 72 * (lines[order][1:] + lines[order][:-1]) / 2
    heights = points[order, 1].copy()
    for _ in range(200):  # push neighbours apart, evenly, until all have room
        clash = np.nonzero(np.diff(heights) < gaps - 1e-6)[0]
        if not len(clash):
            break
        for place in clash:
            middle, half = heights[place : place + 2].mean(), gaps[place] / 2
            heights[place], heights[place + 1] = middle - half, middle + half
    for place, height in zip(order, heights, strict=True):
        x, y, text, colour = ends[place]
        offset = (height - points[place, 1]) * 72 / axes.figure.dpi
        axes.annotate(
            text, (x, y), (6, offset), textcoords="offset points", va="center", color=colour, fontsize=size,
            fontweight="bold", annotation_clip=False, path_effects=_halo(),
        )  # fmt: skip


def point_labels(axes: Axes, points: Sequence[Label], size: float = 7) -> None:
    """Write each text beside its point where it covers least: no label or point if it can, nor a line.

    Call after `settle`. Nothing is written where there are too many points to tell the labels apart.
    """
    if not 0 < len(points) <= MOST_LABELS:
        return
    renderer = axes.figure.canvas.get_renderer()
    centres = axes.transData.transform([(x, y) for x, y, *_ in points])
    drawn = [axes.transData.transform(line.get_xydata()) for line in axes.lines if line.get_marker() != "None"]
    markers = np.concatenate([centres, *drawn])
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in markers]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    lines = np.concatenate([np.empty((0, 2)), *(_along(axes, line.get_xydata()) for line in axes.lines)])
    inside = axes.get_window_extent(renderer)
    near = [(7, 0), (-7, 0), (0, 7), (0, -7)]
    offsets = near + [(dx, dy) for x, y in ((6, 5), (10, 12)) for dx in (x, -x) for dy in (y, -y)]
    for place, (x, y, text, colour) in enumerate(points):
        best = None
        for dx, dy in offsets:
            label = axes.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", fontsize=size, color=colour,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center", path_effects=_halo(),
            )  # fmt: skip
            box = label.get_window_extent(renderer)
            covered = np.all((lines > box.min) & (lines < box.max), axis=1).sum()
            middle = (box.min + box.max) / 2
            astray = np.hypot(*(markers - middle).T).argmin() != place  # it would be read as another point's
            cost = 10 * sum(box.overlaps(other) for other in taken) + 30 * (not _within(box, inside))
            cost += 4 * astray + 0.15 * covered + 0.1 * max(0, np.hypot(dx, dy) - 8)
            if best is None or cost < best[0]:
                if best:
                    best[1].remove()
                best = (cost, label, box)
            else:
                label.remove()
            if cost == 0:
                break
        taken.append(best[2])


def _along(axes: Axes, vertices: np.ndarray) -> np.ndarray:
    """(n, 2) places on the page, a few pixels apart, along a drawn line."""
    page = axes.transData.transform(np.asarray(vertices, float))
    parts = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 4)) for a, b in pairwise(page)]
    return np.concatenate(parts) if parts else page


def _halo() -> list[withStroke]:
    return [withStroke(linewidth=2.2, foreground="white")]


def _within(box: Bbox, frame: Bbox) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 + 20 and frame.y0 <= box.y0 and box.y1 <= frame.y1 + 6
