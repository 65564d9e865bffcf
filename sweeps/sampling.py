"""Sampling steps: can more sampling compute make up for less model compute (Figure 10)?

Measures the models of `sizes` again, from their weights, and trains nothing that it finds trained. By DDPM, as the
figure does, and by DDIM beside it for the middle patch. Expect each model's FID to fall with DDPM's steps and to level
off, and small models seldom to reach large ones whatever their steps; DDIM is at its best after few steps and slowly
rises from there, in these features. Costs about 25 minutes on two CPU cores.
"""

from harness.config import SCALES, Trial, base, grid

STEPS = {
    "smoke": (2, 5),
    "cpu": (8, 16, 32, 64),
    "gpu": (16, 32, 64, 128, 256),
    "paper": (16, 32, 64, 128, 256, 1000),
}  # fmt: skip
FEW = {"cpu": (4, 8, 16, 64)}  # of DDIM; elsewhere as many as of DDPM
SAMPLES = {"cpu": 500, "paper": 10_000}  # as in the paper's figure; elsewhere the scale's own


def trials(scale: str) -> list[Trial]:
    """The twelve models of `sizes` at each number of DDPM's steps; those of its middle patch at DDIM's."""
    chosen = SCALES[scale]
    start = base(scale) | {"evaluate.points": 1}
    start |= {"evaluate.samples": SAMPLES.get(scale, start["evaluate.samples"])}
    sizes, middle = {"model.size": chosen.ladder}, chosen.patches[len(chosen.patches) // 2]
    return [
        *grid(
            start | {"evaluate.sampler": "ddpm"},
            sizes | {"model.patch": chosen.patches, "evaluate.steps": STEPS[scale]},
        ),
        *grid(
            start | {"evaluate.sampler": "ddim", "model.patch": middle},
            sizes | {"evaluate.steps": FEW.get(scale, STEPS[scale])},
        ),
    ]
