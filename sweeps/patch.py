"""One size at every patch: the same parameters, more Gflops (Figure 6, bottom row).

Expect FID to fall as the patch gets smaller while the parameters hardly change: it is Gflops that matter. Costs nothing
where `sizes` has been run, whose cells it shares.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """The scale's patches, at the largest size of its ladder."""
    chosen = SCALES[scale]
    return grid(base(scale, size=chosen.ladder[-1]), {"model.patch": chosen.patches})
