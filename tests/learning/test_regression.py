"""Ridge regression in closed form against scikit-learn, finite differences, and both of its own forms."""

import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from metashot.learning.models.methods.regression import ridge_regression

SHAPES = {"fewer samples than features": (5, 20), "as many": (12, 12), "more": (40, 6)}


def problem(samples: int, features: int, n_way: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(samples)
    x = torch.randn(2, samples, features, generator=g, dtype=torch.float64)
    labels = torch.arange(samples).remainder(n_way).expand(2, -1)
    return x, F.one_hot(labels, n_way).double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
def test_weights_are_those_of_scikit_learn(shape: tuple[int, int], ridge: float) -> None:
    x, y = problem(*shape)
    weights = ridge_regression(x, y, torch.tensor(ridge, dtype=torch.float64))
    for batch in range(2):
        expected = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(x[batch], y[batch]).coef_.T
        torch.testing.assert_close(weights[batch], torch.from_numpy(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_finite_differences(shape: tuple[int, int]) -> None:
    x, y = problem(*shape)
    ridge = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ridge_regression, (x.requires_grad_(), y.requires_grad_(), ridge))


def test_the_gradient_vanishes_at_the_minimum() -> None:
    x, y = problem(40, 6)
    weights = ridge_regression(x, y, torch.tensor(2.0, dtype=torch.float64)).requires_grad_()
    ((x @ weights - y).square().sum() + 2.0 * weights.square().sum()).backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-10
