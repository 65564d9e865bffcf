"""The sections of a report: for each objective and way of measuring its headline numbers, figures and power laws."""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import frames, headline, words
from analysis.figures import FIGURES, style

LARGEST_SVG = 1_000_000  # bytes; a larger figure goes into the page as PNG


@dataclass(frozen=True)
class Drawn:
    """A figure as the page shows it."""

    number: int
    name: str
    title: str
    caption: str
    source: str  # data URI
    inches: float  # wide


def sections(
    frame: pd.DataFrame, images: Mapping[str, Path], target: Path, numbers: Iterator[int] | None = None
) -> list[dict]:
    """What the template draws, a section for each objective and way of measuring; first, figures that compare these.

    images: run id -> its sample sheet. numbers: of the figures, from 1 unless they go on from another sweep's. Writes
    each figure to the folder `target` as PNG and SVG.
    """
    taken: Counter[str] = Counter()  # files by the name of their figure
    numbers = numbers or count(1)

    def draw(part: pd.DataFrame, names: list[str]) -> list[Drawn]:
        members, drawn = set(part["run_id"]), []
        shown = {run_id: path for run_id, path in images.items() if run_id in members}
        for name in names:
            spec = FIGURES[name]
            if spec.applies(part) and (shown or not spec.needs_images):
                figure = spec.draw(part, shown) if spec.needs_images else spec.draw(part)
                taken[name] += 1
                stem = name if taken[name] == 1 else f"{name}-{taken[name]}"
                source = _save(figure, target / stem)
                drawn.append(Drawn(next(numbers), stem, spec.title, spec.caption(part), source, figure.get_figwidth()))
        return drawn

    out, compared = [], set()
    for across in dict.fromkeys(spec.across for spec in FIGURES.values() if spec.across):
        for part in frames.groups(frame, across):
            figures = draw(part, [name for name, spec in FIGURES.items() if spec.across == across])
            if figures:
                compared |= _shown(part, across)
                section = {"setting": words.recipe(part), "headline": [], "figures": figures, "laws": []}
                out.append(section | {"compares": True})
    plain = [name for name, spec in FIGURES.items() if not spec.across]
    for part in frames.groups(frame):
        if not set(part["run_id"]) <= compared:
            setting = f"{words.recipe(part)}; {words.evaluation(part)}"
            section = {"headline": headline.numbers(part), "figures": draw(part, plain), "laws": headline.laws(part)}
            if any(section.values()):
                out.append(section | {"setting": setting, "compares": False})
    return out


def _shown(part: pd.DataFrame, across: tuple[str, ...]) -> set[str]:
    """The runs of which a comparison shows all there is: of models that were measured in several ways, once in each.

    An objective is no way of measuring but one of training, which has figures of its own.
    """
    if not set(across) <= set(frames.EVALUATION):
        return set()
    runs, points = part.drop_duplicates("run_id"), part.groupby("run_id")["fid"].count()
    ways = runs.groupby(list(across), dropna=False).ngroup()
    several = ways.groupby([runs[field] for field in frames.SHAPE], dropna=False).transform("nunique") > 1
    return set(runs["run_id"][several & (runs["run_id"].map(points) <= 1)])


def _save(figure: Figure, stem: Path) -> str:
    """Write the figure as PNG and SVG; returns the lighter of the two as a data URI."""
    with style.theme():
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    stem.with_suffix(".svg").write_bytes(svg)
    kind, data = ("svg+xml", svg) if len(svg) <= LARGEST_SVG else ("png", stem.with_suffix(".png").read_bytes())
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
