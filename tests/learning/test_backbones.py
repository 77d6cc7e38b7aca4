"""ResNet-12 and DropBlock; Conv-4 is in test_methods.py."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.learning.models import backbones, methods, runtime
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.backbones.resnet12 import ResNet12, Resnet12Params, drop_block
from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base, maml

RESNET = Resnet12Params(name="resnet12", width=4, drop_rate=0.0, drop_size=5)
BASE = {"lr": 1e-3, "meta_batch": 1, "train_way": 3}
INNER = {"inner_lr": 0.1, "inner_steps": 2, "test_lr": 0.1, "test_steps": 1}
PARAMS = {
    "prototypical": BASE | {"temperature": 1.0},
    "maml": BASE | INNER | {"second_order": True, "query_norm": "query"},
}


def reference(x: Tensor, net: ResNet12) -> Tensor:
    """The network as the papers describe it, written with plain layers in evaluation mode."""
    for block in net.blocks:
        beside = F.batch_norm(
            F.conv2d(x, block.shortcut.weight),
            *(block.shortcut_norm.running_mean, block.shortcut_norm.running_var),
            *(block.shortcut_norm.weight, block.shortcut_norm.bias),
        )
        for number, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
            x = F.conv2d(x, conv.weight, padding=1)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            x = F.leaky_relu(x + beside if number == 2 else x, 0.1)
        x = F.max_pool2d(x, 2)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def test_resnet12_equals_the_network_of_the_papers() -> None:
    net = dataclasses.replace(RESNET, drop_rate=0.5).build((3, 32, 32)).double()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    pictures = torch.rand(3, 3, 32, 32, dtype=torch.double)
    features = net.eval()(pictures)
    torch.testing.assert_close(features, reference(pictures, net))
    assert features.shape == (3, net.features)


def test_parameters_of_resnet12_are_those_published() -> None:
    # Lee et al. 2019 and its followers count 12.4 million for 64, 160, 320, 640.
    count = dataclasses.replace(RESNET, width=64).count((3, 84, 84))
    assert round(count / 1e6, 1) == 12.4


def test_drop_block_takes_squares_at_its_rate_and_keeps_the_sum() -> None:
    torch.manual_seed(0)
    ones = torch.ones(200, 8, 10, 10)
    out = drop_block(ones, 0.1, 3)
    dropped = (out == 0).float()
    assert abs(dropped.mean() - 0.1) < 0.01
    torch.testing.assert_close(out.sum(), ones.sum())
    # What is gone is a union of whole 3x3 squares: opening it with that square changes nothing.
    eroded = 1 - F.max_pool2d(F.pad(1 - dropped, (1, 1, 1, 1), value=1), 3, stride=1)
    torch.testing.assert_close(F.max_pool2d(eroded, 3, stride=1, padding=1), dropped)
    assert drop_block(torch.ones(1, 1, 2, 2), 0.5, 5).shape == (1, 1, 2, 2)


def test_drop_block_acts_in_training_only_and_never_in_an_inner_loop() -> None:
    net = dataclasses.replace(RESNET, drop_rate=0.5, drop_size=1).build((3, 32, 32))
    pictures = torch.rand(4, 3, 32, 32)
    torch.manual_seed(0)
    assert not torch.equal(net(pictures), net(pictures))
    assert torch.equal(net(pictures, 4), net(pictures, 4))
    assert torch.equal(net.eval()(pictures), net(pictures))


@pytest.mark.parametrize(
    ("shape", "backbone"),
    [
        ((3, 32, 32), Conv4Params(name="conv4", width=4, downsample="pool")),
        ((3, 84, 84), Conv4Params(name="conv4", width=4, downsample="stride")),
        ((3, 32, 32), RESNET),
        ((1, 16, 16), RESNET),
        ((3, 32, 32), Conv4Params(name="conv4", width=4, downsample="pool", precision="bfloat16")),
        ((3, 32, 32), dataclasses.replace(RESNET, precision="bfloat16")),
    ],
)
@pytest.mark.parametrize("name", ["prototypical", "maml"])
def test_colour_pictures_of_any_size_train_and_predict(
    name: str, shape: tuple[int, ...], backbone: backbones.Params
) -> None:
    form = dataclasses.replace(images.form(16, 1), shape=shape)
    cls = methods.METHODS[name]
    method = cls(cls.params_type(**PARAMS[name]), base.Problem(form, backbone, 9))
    labels = torch.arange(3).repeat_interleave(2)[None]
    e = Episodes(torch.rand(1, 6, *shape), labels, torch.rand(1, 6, *shape), labels, torch.arange(3)[None])
    assert method.backward(e).isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    answers = method.eval().predict(e.support, labels, e.query, 3)
    torch.testing.assert_close(answers.sum(-1), torch.ones(1, 6))


@pytest.mark.parametrize("rows", [None, 8, 3], ids=["running", "batch", "support"])
@pytest.mark.parametrize(
    "backbone",
    [
        Conv4Params(name="conv4", width=8, downsample="pool"),
        Conv4Params(name="conv4", width=8, downsample="stride"),
        RESNET,
    ],
    ids=["pool", "stride", "resnet12"],
)
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_is_float32_but_for_rounding(
    backbone: backbones.Params, training: bool, rows: int | None
) -> None:
    g = torch.Generator().manual_seed(1)
    pictures = torch.rand(8, 1, 32, 32, generator=g)
    features, gradients, running = [], [], []
    for precision in ("float32", "bfloat16"):
        with runtime.reproducible(0):
            net = dataclasses.replace(backbone, precision=precision).build((1, 32, 32))
            out = net.train(training)(pictures, rows)
            (out * torch.randn(out.shape, generator=g.manual_seed(2))).sum().backward()
        features.append(out)
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        running.append(torch.cat([b.flatten() for n, b in net.named_buffers() if "running" in n]))
    assert {part.dtype for part in (*features, *gradients, *running)} == {torch.float32}
    assert not torch.equal(*features)
    assert (features[1] - features[0]).norm() < 0.05 * features[0].norm()  # 8 bits, some dozen operations
    assert F.cosine_similarity(*gradients, dim=0) > 0.9
    torch.testing.assert_close(*running, rtol=0.02, atol=0.01)


def test_second_order_gradients_in_bfloat16_are_those_in_float32_but_for_rounding() -> None:
    labels = torch.arange(3).repeat_interleave(4).expand(2, -1)
    gradients = []
    for precision in ("float32", "bfloat16"):
        with runtime.reproducible(0):
            network = Conv4Params(name="conv4", width=8, downsample="pool", precision=precision)
            method = maml.Maml(maml.Params(**PARAMS["maml"]), base.Problem(images.form(16, 1), network))
            pictures = torch.rand(2, 2, 12, 1, 16, 16)
            method.backward(Episodes(pictures[0], labels, pictures[1], labels, torch.arange(3).expand(2, -1)))
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    assert not torch.equal(*gradients)
    assert F.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize("backbone", [RESNET, Conv4Params(name="conv4", width=4, downsample="pool")])
def test_an_unknown_precision_is_refused(backbone: backbones.Params) -> None:
    with pytest.raises(ValueError, match=r"^precision: 'float16' is neither `float32` nor `bfloat16`"):
        dataclasses.replace(backbone, precision="float16")


def test_conv4_of_other_than_square_pictures() -> None:
    net = Conv4Params(name="conv4", width=8, downsample="pool").build((1, 40, 101))
    assert net(torch.rand(2, 1, 40, 101)).shape == (2, net.features) == (2, 8 * 2 * 6)


@pytest.mark.parametrize("backbone", [RESNET, Conv4Params(name="conv4", width=4, downsample="pool")])
@pytest.mark.parametrize("shape", [(1, 12, 28), (3, 7), (11,)])
def test_samples_that_a_backbone_does_not_take_are_one_line(
    backbone: backbones.Params, shape: tuple[int, ...]
) -> None:
    with pytest.raises(MetashotError, match="takes pictures of 16x16 pixels or more") as error:
        backbone.build(shape)
    assert "\n" not in str(error.value)


def test_on_a_cpu_pictures_are_laid_out_with_their_channels_last() -> None:
    """Of one channel torch takes either layout for the other, and its convolutions the slow one."""
    for channels in (1, 2, 3):
        pictures = torch.rand(2, channels, 4, 5)
        laid = backbones.base.laid_out(pictures)
        assert torch.equal(laid, pictures)
        assert laid.stride() == (20 * channels, 1, 5 * channels, channels)


@pytest.mark.parametrize(("downsample", "least"), [("pool", 16), ("stride", 1)])
def test_the_smallest_pictures_of_conv4(downsample: str, least: int) -> None:
    params = Conv4Params(name="conv4", width=3, downsample=downsample)
    network = params.build((1, least, least)).eval()
    assert network(torch.rand(2, 1, least, least)).shape == (2, network.features) == (2, 3)
    for shape in ((1, least - 1, least), (1, least, least - 1)):
        with pytest.raises(MetashotError, match=f"pictures of {least}x{least} pixels or more"):
            params.build(shape)


def test_drop_block_is_in_the_last_two_blocks() -> None:
    torch.manual_seed(0)
    network = dataclasses.replace(RESNET, drop_rate=0.5, drop_size=1).build((3, 64, 64))
    empty = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: empty.append(float((out == 0).float().mean())))
    network(torch.rand(16, 3, 64, 64))
    assert empty[:2] == [0, 0]
    assert all(abs(share - 0.5) < 0.05 for share in empty[2:])


def test_drop_block_leaves_other_pictures_by_how_much_is_kept() -> None:
    torch.manual_seed(0)
    x = torch.rand(30, 3, 6, 9)
    out = drop_block(x, 0.2, 2)
    kept = out != 0
    assert abs(float(kept.float().mean()) - 0.8) < 0.05
    torch.testing.assert_close(out[kept], x[kept] / kept.float().mean())
    assert torch.equal(drop_block(x, 0.0, 2), x)
    sums = {float(drop_block(torch.ones(1, 1, 1, 2), 0.5, 1).sum()) for _ in range(50)}
    assert sums == {0, 2}  # none, one or both of two are kept
    assert drop_block(torch.ones(1, 1, 3, 3), 1.0, 3).sum() == 0  # all of it, and no division by 0
