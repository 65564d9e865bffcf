"""The paper's main experiment: four sizes x patch 8, 4, 2, twelve models (Figures 6 to 9 and 13, Table 4).

Expect FID to fall steadily with Gflops: at a fixed patch with size, at a fixed size with smaller patches.

How the recipe of the `cpu` scale was chosen (two cores with AVX-512 bf16; FID of 1,000 samples, lite0, DDIM 16):
- Batch and learning rate, width 128 depth 3 patch 4, 24,576 images: batch 32 reached 2580 at 1e-3 and 2265 at 2e-3;
  batch 16 reached 2283 at 1e-3 and 1910 at 2e-3. Steps are what a short run lacks, so the small batch won.
- Ladder: widths 96 to 256 give the same spread of Gflops for 1.4 times the compute, and at 2e-3 width 256 was no
  better than 192 at patch 8 after 12,288 images (3107, 3092). Width 80 still clears patch 8's 64 values: 3068 at
  32,768 images, where width 208 depth 4 reached 2167.
- Sampling: DDIM at 8, 12 and 16 steps gave the same FID (2013, 2048, 2035 of 500 samples, 3x160 patch 2 half-way
  through); 10 steps cost a third less than 16.
- AdamW's second moment: a run of 2,560 steps is short against the 1,000 that beta2 0.999 averages over, and wide
  models spiked at patch 2. With beta2 0.99 and 32,768 images 2x80/8 reached 2829 instead of 3059, and 3x160/2 1366
  instead of 1384; half the rate instead gave 3260 and 1477 (DDIM 10).
- Images: 40,960 is what twelve models and three evaluations each leave of the time.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Twelve cells at every scale but smoke."""
    chosen = SCALES[scale]
    return grid(base(scale), {"model.size": chosen.ladder, "model.patch": chosen.patches})
