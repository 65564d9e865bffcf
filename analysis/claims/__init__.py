"""The paper's statements, and SiT's, as tests on a study's runs: each gets a statistic, an interval and a verdict.

A claim is a function (frame -> Finding, or None where the runs do not bear on it) and one row of `CLAIMS`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd

from analysis.claims import conditioning, objectives, sampling, scaling
from analysis.claims.evidence import DOES_NOT_HOLD, HOLDS, TOO_LITTLE, Finding

VERDICTS = (HOLDS, DOES_NOT_HOLD, TOO_LITTLE)


@dataclass(frozen=True)
class Asked:
    """A statement of the paper, what the paper measured and where it says so, and the test of it."""

    text: str
    paper: str
    test: Callable[[pd.DataFrame], Finding | None]


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and what these runs say of it."""

    letter: str
    text: str
    paper: str
    statistic: str
    interval: str
    verdict: str  # one of VERDICTS
    detail: str


CLAIMS: dict[str, Asked] = {
    "a": Asked(
        "adaLN-Zero is the best way to tell the model its timestep and class",
        "FID 19.5 against 25.2 (adaLN), 26.1 (cross-attention), 35.2 (in-context); XL/2, Table 4, Figure 5",
        conditioning.best,
    ),
    "b": Asked(
        "At a fixed patch a larger model is better at every stage of training",
        "9 of 9 neighbouring pairs, Table 4; all stages, Figure 6, top",
        scaling.larger,
    ),
    "c": Asked(
        "At a fixed size a smaller patch is better",
        "8 of 8 neighbouring pairs, Table 4; Figure 6, bottom",
        scaling.finer,
    ),
    "d": Asked(
        "FID goes with Gflops, and parameters alone do not explain it",
        "Pearson -0.93 of log Gflops and FID, Figure 8; at equal parameters FID 153.6 to 68.4 (S/8 to S/2), Table 4",
        scaling.correlated,
    ),
    "e": Asked(
        "Larger models make better use of training compute",
        "XL/4 is overtaken by XL/2 after about 10¹⁰ Gflops, section 5, Figure 9",
        scaling.efficient,
    ),
    "f": Asked(
        "More sampling compute does not make up for less model compute",
        "L/2 with 80.7 Tflops an image: FID-10K 25.9; XL/2 with 15.2: 23.7; section 5, Figure 10",
        sampling.outspent,
    ),
    "g": Asked(
        "Cross-attention costs about 15 % more Gflops",
        "137.6 against 118.6 Gflops, 16 % more; XL/2, Table 4, section 3.2",
        conditioning.overhead,
    ),
    "h": Asked(
        "On a straight path, predicting velocity beats predicting noise at equal Gflops",
        "FID 57.6 against 68.4 (S/2), 33.0 against 43.5 (B/2), 18.8 against 23.3 (L/2), 17.2 against 19.5 (XL/2) after "
        "400K steps; SiT, arXiv 2401.08740, against Table 4",
        objectives.velocity,
    ),
}  # fmt: skip


def judge(frame: pd.DataFrame) -> list[Claim]:
    """What the runs say of each claim that they bear on, in the order of the letters."""
    found = {letter: asked.test(frame) for letter, asked in CLAIMS.items()} if len(frame) else {}
    return [
        Claim(letter, CLAIMS[letter].text, CLAIMS[letter].paper, **asdict(finding))
        for letter, finding in found.items()
        if finding is not None
    ]


def table(claims: list[Claim]) -> pd.DataFrame:
    """One row a claim: the columns of `claims.csv`."""
    return pd.DataFrame([asdict(claim) for claim in claims], columns=list(Claim.__dataclass_fields__))
