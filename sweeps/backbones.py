"""A transformer and a U-Net at equal Gflops: what does the backbone decide, beside what is spent on it (section 1)?

Each U-Net has the forward Gflops of a DiT at patch 2, within 5 %, and is trained by the same recipe, with the schedule
it came with: IDDPM's cosine, where the DiT's is linear. Those trained with the linear one too, at the `cpu` scale only
the smallest, tell the backbone from the schedule. Expect no plain answer: at the `cpu` scale the transformer has the
lower FID at each size (1417, 1160, 1152 against 1433, 1225, 1217), the U-Net the lower KID and ten times the recall.
Earlier in training the U-Net is ahead (after 10,240 images 1293 against 2210 at 0.16 Gflops). Costs about 20 minutes on
two CPU cores where `sizes` has been run, whose transformers it shares.
"""

from harness.config import Trial, base, grid

# scale: DiT at patch 2, U-Net of its Gflops (residual blocks a level x channels x heads)
PAIRS = {
    "smoke": (("1x64", "1x8x1"),),  # to 9 %
    "cpu":   (("2x80", "1x14x1"), ("3x112", "1x24x1"), ("3x160", "1x32x1")),
    "gpu":   (("4x208", "1x48x1"), ("8x320", "1x104x2"), ("S", "3x108x3"), ("B", "3x212x4")),
    "paper": (("S", "3x108x3"), ("B", "3x212x4"), ("L", "3x400x10"), ("XL", "3x488x8")),
}  # fmt: skip
BOTH = {"cpu": 1}  # U-Nets that are trained with both schedules, smallest first; elsewhere all


def trials(scale: str) -> list[Trial]:
    """The DiTs; the U-Nets with the cosine schedule; U-Nets with the linear one."""
    transformers, unets = zip(*PAIRS[scale], strict=True)
    start = base(scale, patch=2)
    unet = start | {"model.backbone": "unet", "model.patch": 1}
    return [
        *grid(start, {"model.size": transformers}),
        *grid(unet | {"diffusion.schedule": "cosine"}, {"model.size": unets}),
        *grid(unet, {"model.size": unets[: BOTH.get(scale)]}),
    ]
