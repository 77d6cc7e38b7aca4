"""Ridge regression in closed form, for the methods that fit one to each support set."""

import torch
from torch import Tensor
from torch.nn import functional as F


def ridge_regression(samples: Tensor, targets: Tensor, strength: Tensor) -> Tensor:
    """Weights that minimise ``|XW - Y|^2 + strength |W|^2``, differentiable in all three arguments.

    Solved in the smaller of both dimensions: with fewer samples than features by the Woodbury identity,
    ``W = X' (X X' + strength I)^-1 Y`` (Bertinetto et al. 2019, arXiv:1805.08136, equation 6).

    Args:
        samples: X ``[B, M, D]``.
        targets: Y ``[B, M, N]``.
        strength: Scalar above 0.

    Returns:
        W ``[B, D, N]``.
    """
    count, features = samples.shape[-2:]
    wide = count <= features
    gram = samples @ samples.mT if wide else samples.mT @ samples
    gram = gram + strength * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(gram)
    if wide:
        return samples.mT @ torch.cholesky_solve(targets, factor)
    return torch.cholesky_solve(samples.mT @ targets, factor)


def weighted_targets(support_labels: Tensor, n_way: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a classifier regresses on, and how much each support sample counts.

    Args:
        support_labels: ``[B, M]`` int64.
        n_way: N.
        dtype: Of the results.

    Returns:
        One-hot labels ``[B, M, N]``, and weights ``[B, M, 1]`` with which every class counts like the
        smallest. In classes of one size each sample weighs 1.
    """
    targets = F.one_hot(support_labels, n_way).to(dtype)
    counts = targets.sum(1, keepdim=True)  # [B, 1, N]
    return targets, (targets * counts.amin(-1, keepdim=True) / counts).sum(-1, keepdim=True)
