"""Off the ladder: depth against width at one patch. Do Gflops alone decide, or their shape too?

The paper grows both at once (Table 1); this grid takes them apart, with cells of about equal Gflops on its diagonals.
Expect FID to follow Gflops, but two blocks to be too few however wide: at the `cpu` scale and 0.065 Gflops FID is 1594
of 2x192, 1420 of 8x96 and 1358 of 4x144. Costs about 20 minutes on two CPU cores.
"""

from harness.config import Trial, base, grid

# scale: depths, widths; heads keep 48 to 64 channels each
AXES = {
    "smoke": ((1, 2), (64, 96)),
    "cpu":   ((2, 4, 8), (96, 144, 192)),
    "gpu":   ((3, 6, 12), (192, 288, 384)),
    "paper": ((12, 24, 48), (384, 576, 768)),
}  # fmt: skip


def trials(scale: str) -> list[Trial]:
    """Nine cells at patch 4 (four at smoke)."""
    depths, widths = AXES[scale]
    sizes = [f"{depth}x{width}x{max(1, width // 48)}" for depth in depths for width in widths]
    return grid(base(scale, patch=4), {"model.size": sizes})
