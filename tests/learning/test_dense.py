"""The dense network against closed forms and finite differences."""

import pytest
import torch

from metashot.errors import MetashotError
from metashot.learning.models.backbones.dense import Dense, DenseParams

WIDTH = 24


def test_the_dense_network_begins_as_a_rotation_and_is_normalised() -> None:
    torch.manual_seed(0)
    network, vectors = Dense((WIDTH,), WIDTH).double(), torch.randn(10, WIDTH, dtype=torch.double)
    vectors -= vectors.mean(1, keepdim=True)
    turned = network.linear(vectors)
    torch.testing.assert_close(
        torch.cdist(turned, turned), torch.cdist(vectors, vectors), rtol=1e-6, atol=1e-6
    )
    features = network(vectors)
    torch.testing.assert_close(
        features.norm(dim=1), torch.full((10,), 4.0, dtype=torch.double), atol=1e-2, rtol=0
    )
    narrow = Dense((WIDTH,), 8).linear.weight
    torch.testing.assert_close(narrow @ narrow.mT, torch.eye(8), atol=1e-5, rtol=0)
    assert DenseParams(name="dense", width=8).count((WIDTH,)) == 8 * WIDTH + 2 * 8  # no bias before the norm
    with pytest.raises(MetashotError, match="takes vectors"):
        Dense((1, 28, 28), 8)
    with pytest.raises(ValueError, match="width: 1 is not between 2 and 16,384"):
        DenseParams(name="dense", width=1)


def test_the_dense_network_has_the_derivatives_of_finite_differences() -> None:
    """The first for every method, the second for MAML."""
    torch.manual_seed(0)
    network = Dense((5,), 4).double()
    weights, vectors = dict(network.named_parameters()), torch.randn(3, 5, dtype=torch.double)

    def features(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(weights, values, strict=True)), (vectors, 2))

    values = tuple(weight.detach().clone().requires_grad_() for weight in weights.values())
    assert torch.autograd.gradcheck(features, values)
    assert torch.autograd.gradgradcheck(features, values)
