"""The dense network against closed forms and finite differences."""

import pytest
import torch
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.dense import Dense, DenseParams

WIDTH = 24


def test_the_dense_network_begins_as_the_identity_of_centred_vectors_of_one_length() -> None:
    g = torch.Generator().manual_seed(0)
    network = Dense((WIDTH,)).double()
    known, vectors = (5 + torch.randn(rows, WIDTH, generator=g, dtype=torch.double) for rows in (50, 10))
    network.fit([known[:30], known[30:]])
    torch.testing.assert_close(network.centre, known.mean(0))
    expected = 4 * F.normalize(vectors - known.mean(0), dim=1)
    torch.testing.assert_close(network(vectors), expected)
    assert DenseParams(name="dense").count((WIDTH,)) == WIDTH**2
    with pytest.raises(MetashotError, match="takes vectors"):
        Dense((1, 28, 28))


def test_features_have_one_length_whatever_was_learned() -> None:
    torch.manual_seed(0)
    network = Dense((WIDTH,)).double()
    network.linear.weight.data.normal_()
    features = network(torch.randn(10, WIDTH, dtype=torch.double))
    torch.testing.assert_close(features.norm(dim=1), torch.full((10,), 4.0, dtype=torch.double))


def test_the_dense_network_has_the_derivatives_of_finite_differences() -> None:
    """The first for every method, the second for MAML."""
    torch.manual_seed(0)
    network = Dense((5,)).double()
    network.linear.weight.data.normal_()
    weights, vectors = dict(network.named_parameters()), torch.randn(3, 5, dtype=torch.double)

    def features(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, dict(zip(weights, values, strict=True)), (vectors, 2))

    values = tuple(weight.detach().clone().requires_grad_() for weight in weights.values())
    assert torch.autograd.gradcheck(features, values)
    assert torch.autograd.gradgradcheck(features, values)
