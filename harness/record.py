"""The contract between harness and analysis: the name, unit, type and direction of everything a run logs.

The harness writes these names to MLflow and nothing else; the analysis reads these names and nothing else.
A quantity that could not be measured is absent: never 0 and never a plausible default.
"""

from dataclasses import dataclass
from typing import Literal

TAG_ID = "trial_id"  # MLflow tag: the trial's content hash
TAG_SWEEP = "sweep"  # MLflow tag: the sweep that made the run
TAG_KIND = "kind"  # MLflow tag: "trial" or "sweep" (the parent run that holds the report)
TAG_PARENT = "sweep_run"  # MLflow tag of a trial's run: the id of the sweep's own run
TAG_WEIGHTS = "weights_run"  # MLflow tag of a run that trained nothing: the id of the run whose weights it measured
TAG_REASON = "failure"  # MLflow tag on a failed run: the step and the reason
TAG_DIVERGED = "diverged"  # MLflow tag: "yes" on a failed run whose loss left the finite numbers, which is a result
CELLS = "cells.json"  # artifact of a sweep's parent run: the trial ids of its last launch, in order
REPORTED = "reported.json"  # artifact beside it: the trial ids that were over when the report was written, in order
SAMPLES = "samples"  # artifact folder of a trial: one PNG grid per evaluation, named by images seen
WEIGHTS = "weights"  # artifact folder of a trial: ema.safetensors and config.json
LOG_SNR = (-8, -6, -4, -2, 0, 2, 4, 6, 8)  # levels ln(a^2 / b^2) of `noise_mse/...`: from noise to image


@dataclass(frozen=True)
class Quantity:
    """One logged number or word."""

    name: str
    type: type
    unit: str
    about: str
    better: Literal["lower", "higher", ""] = ""
    label: str = ""  # axis label; the name if empty


# Facts of a trial besides its settings (`harness.config.flatten`), logged once as MLflow params.
PARAMS = {
    q.name: q
    for q in (
        Quantity("model.name", str, "", "as people say it: DiT-B/4"),
        Quantity("model.size", str, "", "the size's name, or depth x width x heads"),
        Quantity("model.tokens", int, "tokens", "patches of one image"),
        Quantity("model.params_m", float, "10^6", "trainable parameters", label="Parameters (M)"),
        Quantity("model.gflops", float, "10^9 multiply-adds", "forward cost of one image", label="Model Gflops"),
        Quantity("train_gflops_total", float, "10^9 multiply-adds", "gflops x images x 3 for the whole run"),
        Quantity("data.digest", str, "sha256", "content of the images trained on"),
        Quantity("evaluate.split", str, "", "split of the real images that FID compares with"),
        Quantity("train.arithmetic", str, "", "arithmetic that was used: bf16 or fp32"),
        Quantity("evaluate.calls", int, "", "forward passes of the model that one sample takes, guidance counted"),
        Quantity("version", int, "", "`harness.config.VERSION`: of the code, where it changes results"),
        Quantity("model.backbone.version", str, "", "package and version of a backbone of the user's own"),
        Quantity("diffusion.objective.version", str, "", "likewise of an objective"),
        Quantity("data.dataset.version", str, "", "likewise of a dataset"),
    )
}

# Logged over images seen (the MLflow step).
METRICS = {
    q.name: q
    for q in (
        Quantity("loss", float, "", "training loss: `mse` and `vb` together, mean since the last log", "lower",
                 "Training loss"),
        Quantity("mse", float, "", "its regression part, of what the objective predicts, at the objective's weight",
                 "lower"),
        Quantity("vb", float, "bits/dim a step", "its other part, for the learned covariance: one term of the "
                 "variational bound, mean over the timesteps; their number times it is the bound", "lower"),
        Quantity("images_per_second", float, "1/s", "training throughput since the last log", "higher"),
        Quantity("train_seconds", float, "s", "time spent in training steps so far"),
        Quantity("val_loss", float, "", "noise MSE of the EMA model on held-out images, fixed noise, even grid of "
                 "timesteps; of discrete objectives alone", "lower", "Held-out loss"),
        Quantity("diffusion_loss", float, "nats a value", "half the integral of `noise_mse/...` over log-SNR, -8 to 8; "
                 "the same held-out images and noise for every objective", "lower", "Diffusion loss (nats a value)"),
        *(Quantity(f"noise_mse/{level}", float, "", f"held-out noise MSE at log-SNR {level}", "lower")
          for level in LOG_SNR),
        *(Quantity(f"image_mse/{level}", float, "", f"held-out image MSE at log-SNR {level}", "lower")
          for level in LOG_SNR),
        Quantity("fid", float, "", "Frechet distance to the training images", "lower", "FID"),
        Quantity("fid_floor", float, "", "the same of as many real training images, not among those: what a perfect "
                 "model would have", "", "FID of real images"),
        Quantity("sfid", float, "", "the same in features that keep their places in the image", "lower", "sFID"),
        Quantity("kid", float, "", "kernel distance, unbiased at small counts", "lower", "KID"),
        Quantity("inception_score", float, "", "of the extractor's class probabilities", "higher", "Inception Score"),
        Quantity("precision", float, "", "generated samples inside the real manifold", "higher", "Precision"),
        Quantity("recall", float, "", "real samples inside the generated manifold", "higher", "Recall"),
        Quantity("train_gflops", float, "10^9 multiply-adds", "training compute so far: gflops x images x 3",
                 label="Training compute (Gflops)"),
        Quantity("log10_train_gflops", float, "log10", "the same, for the UI, which has no logarithmic metric axis"),
        Quantity("eval_seconds", float, "s", "time of this evaluation"),
    )
}  # fmt: skip

# The metrics of an evaluation that a report ranks models by, in the order of the paper's Figure 12.
QUALITY = ("fid", "sfid", "kid", "inception_score", "precision", "recall", "val_loss", "diffusion_loss")
