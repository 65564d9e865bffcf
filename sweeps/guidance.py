"""Classifier-free guidance: what a scale buys in precision and costs in recall (the trade-off of Tables 2 and 3).

Measures models of `sizes` again, from their weights, and trains nothing that it finds trained. Expect FID to have its
best at a scale over 1, and of models that are trained for long precision to rise with the scale and recall to fall.
Costs about 20 minutes on two CPU cores.
"""

from harness.config import SCALES, Trial, base, grid, unique

GUIDANCE = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def trials(scale: str) -> list[Trial]:
    """The largest size at the two smallest patches, at each scale; in latents guiding three channels as well as all."""
    chosen = SCALES[scale]
    start = base(scale, size=chosen.ladder[-1]) | {"evaluate.points": 1}
    channels = (0, 3) if scale == "paper" else (0,)
    axes = {"model.patch": chosen.patches[-2:], "evaluate.guidance": GUIDANCE, "evaluate.guidance_channels": channels}
    return unique(t for t in grid(start, axes) if t.evaluate.guidance != 1 or t.evaluate.guidance_channels == 0)
