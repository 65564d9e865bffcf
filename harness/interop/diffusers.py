"""Folders of diffusers' `DiTPipeline`: `DiTTransformer2DModel`, a DDIM schedule and an autoencoder.

What its library does in its own way:
- Every block has its own embedders of timestep and label. Ours are copied into each; coming back they must agree.
- The null class of its guidance is 1000, whatever the table holds. Rows from ours up to that one are the null class.
- Its schedule says what the network predicts, noise or velocity; learned covariance shows in the channels out alone.
- It splits the learned covariance off and forgets it: `DDPMScheduler(variance_type="learned_range")` takes it, by hand.
- Its timestep frequencies and its DDIM differ a little from the paper's; `pipeline.py`, which goes along, has ours.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from harness.config import Diffusion
from harness.data import autoencoder
from harness.diffusion.process import process
from harness.errors import ConfigError, first_line
from harness.naming import choose

from . import names, pipeline
from .identity import identity
from .network import Network, model_of, objective_of

OUTSIDE = {
    "embed":           "pos_embed.proj",
    "head.modulation": "proj_out_1",
    "head.linear":     "proj_out_2",
}  # fmt: skip
BLOCK = {
    "modulation":    "norm1.linear",
    "attention.out": "attn1.to_out.0",
    "mlp.0":         "ff.net.0.proj",
    "mlp.2":         "ff.net.2",
}  # fmt: skip
COPIED = {  # layers of ours that each of their blocks has
    "time.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "time.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "label":      "norm1.emb.class_embedder.embedding_table",
}  # fmt: skip
QKV, SPLIT = "attention.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")  # a layer of ours that is three of theirs
BLOCKS, EMBED = "transformer_blocks", "pos_embed.proj.weight"

NULL = 1000  # the null class of DiTPipeline
FIXED = {"activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero", "attention_bias": True}

# objective -> diffusers' word for what the network predicts
PREDICTS = {"ddpm": "epsilon", "noise": "epsilon", "v": "v_prediction"}

# what it has a place for
KNOWN = {
    "model.backbone": ("dit",), "model.conditioning": ("adaLN-Zero",), "model.mlp_ratio": (4.0,),
    "diffusion.objective": tuple(PREDICTS),
}  # fmt: skip

# schedule -> diffusers' words for it, at 1000 timesteps; a schedule of another length is written out, beta by beta.
BETAS = {
    "linear":        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine":        {"beta_schedule": "squaredcos_cap_v2"},
}  # fmt: skip


def save_diffusers(network: Network, folder: Path | str) -> Path:
    """Write a folder for `DiTPipeline.from_pretrained`; returns it. `pipeline.py` in it says how to load it.

    A network of latents needs to know its autoencoder; one of pixels gets one that changes nothing.
    Raises ConfigError for a model or objective that diffusers has no place for, or an autoencoder that does not fit.
    """
    folder = Path(folder)
    whole = DiTPipeline(to_transformer(network), _coder(network), to_scheduler(network))
    if network.class_names:
        whole.register_to_config(id2label=dict(enumerate(network.class_names)))
    whole.save_pretrained(folder)
    shutil.copyfile(pipeline.__file__, folder / "pipeline.py")
    return folder


def load_diffusers(folder: Path | str) -> Network:
    """The network of a pipeline's folder; its timesteps are taken to be spaced as the paper's.

    Raises ConfigError, one line, for a folder that holds another model, or one whose blocks do not agree.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / "model_index.json").read_text())
        transformer, report = DiTTransformer2DModel.from_pretrained(
            folder / "transformer", low_cpu_mem_usage=False, output_loading_info=True
        )
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        bounded = pipeline.of_pixels(AutoencoderKL.load_config(folder / "vae"))
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"{folder}: not a folder of DiTPipeline ({first_line(error)})") from None
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise ConfigError(f"{folder}: the weights in transformer/ are not those of its config ('{wrong[0]}')")
    labels = {int(key): value for key, value in index.get("id2label", {}).items()}
    class_names = tuple(labels[key] for key in sorted(labels))
    coder = None if bounded else folder / "vae"
    return replace(from_transformer(transformer, scheduler, bounded, class_names), coder=coder)


def to_transformer(network: Network) -> DiTTransformer2DModel:
    """The network as diffusers has it. Raises ConfigError for a model or objective that has no place there."""
    network.require("diffusers", KNOWN)
    if network.classes > NULL:
        raise ConfigError(f"classes: {network.classes} leave no place for the null class of diffusers; allowed: {NULL}")
    model, weights = network.model, dict(network.weights)
    outputs = len(weights["head.linear.bias"]) // model.patch**2
    weights["embed.weight"] = names.to_convolution(weights["embed.weight"], model.patch)
    table = weights["label.weight"]  # (classes + 1, D)
    weights["label.weight"] = torch.cat([table, table[-1:].expand(NULL - network.classes, -1)])  # (1001, D)
    state = {theirs: weights[ours] for ours, theirs in _table(model.depth).items()}
    for i in range(model.depth):
        state |= {theirs: weights[ours] for ours, theirs in _copies(i).items()}
        for part in ("weight", "bias"):
            thirds = weights[f"blocks.{i}.{QKV}.{part}"].chunk(3)
            state |= zip(_split(i, part), thirds, strict=True)
    transformer = DiTTransformer2DModel(
        num_attention_heads=model.heads, attention_head_dim=model.width // model.heads, num_layers=model.depth,
        in_channels=network.channels, out_channels=outputs, sample_size=network.side, patch_size=model.patch,
        num_embeds_ada_norm=NULL, norm_eps=1e-6, **FIXED,
    )  # fmt: skip
    transformer.load_state_dict(state)
    return transformer.eval()


def from_transformer(
    transformer: DiTTransformer2DModel, scheduler: DDIMScheduler, bounded: bool, class_names: tuple[str, ...]
) -> Network:
    """The network of a diffusers model. Raises ConfigError if it is another one than the paper's DiT."""
    config, state = transformer.config, {name: w.float() for name, w in transformer.state_dict().items()}
    for field, only in FIXED.items():
        if config[field] != only:
            raise ConfigError(f"{field}: {config[field]!r} is unknown to this project; allowed: {only!r}")
    depth, channels = config.num_layers, config.in_channels
    model = model_of(
        depth=depth, width=config.num_attention_heads * config.attention_head_dim, heads=config.num_attention_heads,
        patch=config.patch_size,
    )  # fmt: skip
    diffusion = diffusion_of(scheduler, channels, transformer.out_channels)
    weights = {ours: state[theirs] for ours, theirs in (_table(depth) | _copies(0)).items()}
    for i in range(depth):
        for ours, theirs in _copies(i).items():
            if not torch.equal(state[theirs], weights[ours]):
                raise ConfigError(f"{theirs} differs from that of block 0; allowed: the same in every block")
        for part in ("weight", "bias"):
            weights[f"blocks.{i}.{QKV}.{part}"] = torch.cat([state[name] for name in _split(i, part)])  # (3D[, D])
    weights["embed.weight"] = names.from_convolution(weights["embed.weight"])
    weights["label.weight"] = _own(weights["label.weight"])
    classes = len(weights["label.weight"]) - 1
    return Network(model, channels, config.sample_size, classes, weights, diffusion, bounded, class_names)


def to_scheduler(network: Network) -> DDIMScheduler:
    """Diffusers' own DDIM on the schedule that the network was trained with, for what it predicts.

    It must not clip, pixels or not: its step would go on with the noise of the unclipped image, and the more steps it
    takes the further it strays.
    """
    name, steps = network.diffusion.schedule, network.diffusion.timesteps
    predicts = choose("diffusion.objective", network.diffusion.objective, PREDICTS)
    betas = choose("diffusion.schedule", name, BETAS)
    if steps != 1000:
        abar = process(name, steps).abar
        betas = {"trained_betas": [1 - abar[0].item(), *(1 - abar[1:] / abar[:-1]).tolist()]}
    return DDIMScheduler(steps, **betas, prediction_type=predicts, clip_sample=False)


def diffusion_of(scheduler: DDIMScheduler, channels: int, out: int) -> Diffusion:
    """Objective and schedule of ours that a scheduler has, of a network with so many channels in and out.

    Raises ConfigError for any other.
    """
    predicts, found = scheduler.config.prediction_type, scheduler.alphas_cumprod
    known = [ours for ours, theirs in PREDICTS.items() if theirs == predicts]
    if not known:
        allowed = ", ".join(dict.fromkeys(PREDICTS.values()))
        raise ConfigError(f"scheduler: it predicts '{predicts}'; allowed: {allowed}")
    objective = objective_of(known, channels, out)
    for name in BETAS:
        if torch.allclose(process(name, len(found)).abar.float(), found, rtol=1e-3, atol=0):
            return Diffusion(objective=objective, schedule=name, timesteps=len(found))
    raise ConfigError(f"scheduler: its betas are of an unknown schedule; allowed: {', '.join(BETAS)}")


def _table(depth: int) -> dict[str, str]:
    """Weights that are one of ours and one of theirs."""
    return names.of_weights(names.of_layers(OUTSIDE, BLOCK, BLOCKS, depth))


def _copies(i: int) -> dict[str, str]:
    """Weights of ours of which block i has a copy."""
    return names.of_weights({ours: f"{BLOCKS}.{i}.{theirs}" for ours, theirs in COPIED.items()})


def _split(i: int, part: str) -> list[str]:
    return [f"{BLOCKS}.{i}.{name}.{part}" for name in SPLIT]


def _own(table: Tensor) -> Tensor:
    """A label table (M, D) without what fills it up: the rows that repeat the last one, the null class."""
    classes = max((table != table[-1]).any(dim=1).nonzero().flatten().tolist(), default=0) + 1
    return table[: classes + 1].clone()


def _coder(network: Network) -> AutoencoderKL:
    folder = network.coder
    if network.bounded:
        if folder:
            raise ConfigError(f"--autoencoder: '{folder}' is of no use to a network of pixels; allowed: none")
        return identity(network.channels, network.side)
    if folder is None:
        raise ConfigError("--autoencoder: a network of latents needs one; give the folder of an AutoencoderKL")
    net = autoencoder.load(str(folder)).net
    if net.config.latent_channels != network.channels:
        raise ConfigError(
            f"--autoencoder: '{folder}' has latents of {net.config.latent_channels} channels; allowed: "
            f"{network.channels}, the network's"
        )
    if net.config.shift_factor:
        raise ConfigError(f"--autoencoder: '{folder}' shifts its latents, which DiTPipeline cannot; allowed: no shift")
    return net
