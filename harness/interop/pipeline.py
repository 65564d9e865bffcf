"""The paper's DiT in diffusers. This file goes along with an exported folder, and needs nothing but diffusers.

    from diffusers import DiTPipeline

    DiTPipeline.from_pretrained(folder)  # near: diffusers' own timestep frequencies and DDIM
    DiTPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)  # as trained and measured

The first is what diffusers makes of any DiT, the published ones too. The second differs from it in two things:
- The frequencies of the timestep features are 10000^(-k/128), as in the paper's code; diffusers has 10000^(-k/127).
- DDIM visits evenly spaced timesteps, the first and the last among them. Of pixels it clips the predicted image, and
  goes on with the noise that the clipped one implies. What the model predicts, noise or velocity, its schedule says.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput


class EvenDDIMScheduler(DDIMScheduler):
    """Deterministic DDIM (arXiv 2010.02502, equation 12 with eta 0) from each timestep to the next one visited."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        last = self.config.num_train_timesteps - 1
        even = torch.linspace(0, last, num_inference_steps, dtype=torch.float64).round().long()
        even[-1] = last  # which a single one is not
        self.timesteps = even.flip(0).to(device)

    def step(self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor) -> DDIMSchedulerOutput:
        """Predicted noise or velocity and x, both (N, C, S, S), at a timestep -> x at the next one."""
        left = self.timesteps[self.timesteps < timestep]
        abar = self.alphas_cumprod[timestep]
        after = self.alphas_cumprod[left[0]] if len(left) else torch.ones(())
        a, b = abar.sqrt(), (1 - abar).sqrt()
        if self.config.prediction_type == "v_prediction":
            image, noise = a * sample - b * model_output, b * sample + a * model_output
        else:
            image, noise = (sample - b * model_output) / a, model_output
        if self.config.clip_sample:
            image = image.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
            noise = (sample - a * image) / b
        return DDIMSchedulerOutput(after.sqrt() * image + (1 - after).sqrt() * noise, image)


class PaperDiTPipeline(DiTPipeline):
    """DiTPipeline whose model and DDIM are the paper's; a scheduler of another kind is left as it is."""

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        vae: AutoencoderKL,
        scheduler: KarrasDiffusionSchedulers,
        id2label: dict[int, str] | None = None,
    ):
        if isinstance(scheduler, DDIMScheduler):
            scheduler = EvenDDIMScheduler.from_config(scheduler.config, clip_sample=of_pixels(vae.config))
        super().__init__(transformer, vae, scheduler, id2label)
        space_frequencies(transformer)


def of_pixels(vae: Mapping[str, Any]) -> bool:
    """Whether a pipeline models the images themselves: its autoencoder, by its config, does not shrink them."""
    return len(vae["block_out_channels"]) == 1


def space_frequencies(transformer: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """Give a model, in place, the timestep frequencies of the paper's code."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return transformer
