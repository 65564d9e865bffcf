"""An autoencoder that changes nothing, for a pipeline that insists on one where the images themselves are modelled."""

import torch
from diffusers import AutoencoderKL
from torch import nn

BALLAST = 256.0  # of images in [-1, 1] this loses less than one part in 10^5


def identity(channels: int, side: int) -> AutoencoderKL:
    """The smallest `AutoencoderKL` with images (N, C, S, S) for latents, in both directions.

    Its last group norm would divide by the image's own spread: each channel z is sent through it as (z, -z, M, -M),
    whose mean is 0 and whose spread is M / sqrt(2) to a relative z^2 / 2 M^2. The SiLU after it cancels, since
    silu(u) - silu(-u) = u. All that lies between is residual, and zero.
    """
    net = AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=channels, sample_size=side, scaling_factor=1.0,
        block_out_channels=(4 * channels,), norm_num_groups=channels, layers_per_block=1, use_quant_conv=False,
        use_post_quant_conv=False, mid_block_add_attention=False, force_upcast=False,
    )  # fmt: skip
    with torch.no_grad():
        for weight in net.parameters():
            nn.init.zeros_(weight)
        for half in (net.encoder, net.decoder):
            nn.init.ones_(half.conv_norm_out.weight)
            for c in range(channels):
                plus, minus, ballast = 4 * c, 4 * c + 1, slice(4 * c + 2, 4 * c + 4)
                half.conv_in.weight[plus, c, 1, 1], half.conv_in.weight[minus, c, 1, 1] = 1, -1
                half.conv_in.bias[ballast] = torch.tensor([BALLAST, -BALLAST])
                gain = BALLAST / 2**0.5
                half.conv_out.weight[c, plus, 1, 1], half.conv_out.weight[c, minus, 1, 1] = gain, -gain
        net.encoder.conv_out.bias[channels:] = -30  # log-variance of the latents: as good as none
    return net.eval()
