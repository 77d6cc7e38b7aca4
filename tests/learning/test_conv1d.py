"""Conv-1d against NumPy, step by step."""

import numpy as np
import pytest
import torch
from torch import nn

from metashot.data import Form
from metashot.errors import MetashotError
from metashot.learning.models import backbones, runtime
from metashot.learning.models.backbones.conv1d import Conv1dParams
from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import maml
from metashot.learning.models.methods.base import Problem

RANDOM = np.random.default_rng(0)
NETWORK = Conv1dParams(name="conv1d", width=6, kernel=5)


def network(steps: int = 37) -> backbones.Backbone:
    torch.manual_seed(0)
    net = NETWORK.build((3, steps)).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net


def test_conv1d_is_what_numpy_computes() -> None:
    """Step by step: correlation, running statistics, ReLU, the greater of two neighbours; the mean."""
    net, x = network().eval(), RANDOM.normal(size=(4, 3, 37))
    wanted = x
    for conv, norm in zip(net.convs, net.norms, strict=True):
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        padded = np.pad(wanted, ((0, 0), (0, 0), (2, 2)))
        windows = np.stack([padded[:, :, at : at + 5] for at in range(wanted.shape[2])], axis=2)
        y = np.einsum("mctk,ock->mot", windows, weight) + bias[:, None]
        mean, var, scale, shift = (
            value.detach().numpy()[:, None]
            for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        y = np.maximum(0, (y - mean) / np.sqrt(var + norm.eps) * scale + shift)
        half = y.shape[2] // 2
        wanted = np.maximum(y[:, :, : 2 * half : 2], y[:, :, 1 : 2 * half : 2])
    got = net(torch.from_numpy(x)).detach().numpy()
    assert got.shape == (4, net.features) == (4, 6)
    np.testing.assert_allclose(got, wanted.mean(axis=2), rtol=1e-9, atol=1e-12)


def test_conv1d_takes_statistics_from_the_first_rows() -> None:
    net, x = network(64), torch.from_numpy(RANDOM.normal(size=(9, 3, 64)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    got = net(x, 5)
    torch.testing.assert_close(got[:5], net(x[:5], 5))
    torch.testing.assert_close(got[5:6], net(torch.cat([x[:5], x[5:6]]), 5)[5:])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(net(x[:5]), got[:5])  # as in training, which moves the running ones
    assert not torch.equal(net.norms[0].running_mean, before["norms.0.running_mean"])


@pytest.mark.parametrize("shape", [(3, 15), (1, 28, 28), (3,)])
def test_conv1d_takes_series_alone(shape: tuple[int, ...]) -> None:
    with pytest.raises(MetashotError, match="Conv-1d takes series of 16 steps or more"):
        NETWORK.build(shape)


def test_an_inner_loop_over_series_is_the_same_mapped_and_task_by_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU and on a CPU; one task's queries are normalised by statistics of their own."""
    labels = torch.arange(3).expand(2, -1)
    support, query = torch.from_numpy(RANDOM.normal(size=(2, 2, 3, 3, 64)))
    gradients = []
    for mapped in (False, True):
        with runtime.reproducible(0):
            params = maml.Params(
                lr=1e-3,
                meta_batch=2,
                inner_lr=0.1,
                inner_steps=2,
                test_lr=0.1,
                test_steps=2,
                second_order=True,
                train_way=3,
                query_norm="query",
            )
            form = Form("series", (3, 64), "float32", {})
            method = maml.Maml(params, Problem(form, NETWORK)).double()
        monkeypatch.setattr(maml.Maml, "maps_tasks", mapped)
        method.backward(Episodes(support, labels, query, labels, labels))
        gradients.append([parameter.grad for parameter in method.parameters()])
    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0][-2:])
