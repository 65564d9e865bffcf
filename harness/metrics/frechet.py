"""The Frechet distance between features, taken as Gaussians (Heusel et al., arXiv 1706.08500): FID and sFID."""

import torch
from torch import Tensor


def distance(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of features (N, F) to the Gaussian of `mean` and `covariance`.

    In fp64. C1 is R R^T, and the root of C1 C2 has the trace of that of R^T C2 R: symmetric, and (N, N) where images
    are fewer than features, so a fraction of the time of the general eigenvalues of C1 C2.
    """
    x, mean, covariance = features.double(), mean.double(), covariance.double()
    own = x.mean(0)
    root = (x - own).T / (len(x) - 1) ** 0.5  # (F, N)
    spread = root.square().sum()  # tr C1
    if root.shape[1] > root.shape[0]:
        values, vectors = torch.linalg.eigh(root @ root.T)
        root = vectors * values.clamp(min=0).sqrt()  # (F, F)
    shared = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp(min=0).sqrt().sum()
    return float((own - mean).square().sum() + spread + covariance.trace() - 2 * shared)
