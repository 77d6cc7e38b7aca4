"""Each method against independent truth: closed forms, brute force, finite differences, plain autograd."""

import copy
import dataclasses
import json
import math

import pytest
import small_models
import torch
from small_models import FREE, PARAMS
from torch import Tensor, nn
from torch.nn import functional as F

from metashot.data import Form
from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.learning.models import backbones, methods, runtime
from metashot.learning.models.backbones.base import BatchNorm
from metashot.learning.models.backbones.conv1d import Conv1dParams
from metashot.learning.models.backbones.conv4 import Block, Conv4Params, Downsample
from metashot.learning.models.backbones.dense import DenseParams
from metashot.learning.models.backbones.identity import IdentityParams
from metashot.learning.models.backbones.ngrams import NgramsParams
from metashot.learning.models.backbones.resnet12 import Resnet12Params
from metashot.learning.models.episodes import Episodes
from metashot.learning.models.methods import base, maml, siamese

IMAGE = (1, 16, 16)
FORM = images.form(16, 1)
GRADIENT = ("maml", "reptile")  # their inner loop has no use for pooling
NETWORKS = {
    name: Conv4Params(name="conv4", width=4, downsample="stride" if name in GRADIENT else "pool")
    for name in PARAMS
} | dict.fromkeys(FREE, IdentityParams(name="identity"))


def build(name: str, **changes: object) -> base.Method:
    return small_models.build(name, base.Problem(FORM, NETWORKS[name], train_classes=20), **changes)


def episodes(batch: int = 2, n_way: int = 3, k_shot: int = 1, n_query: int = 4, seed: int = 0) -> Episodes:
    g = torch.Generator().manual_seed(seed)

    def part(per_class: int) -> tuple[Tensor, Tensor]:
        images = torch.rand(batch, n_way * per_class, *IMAGE, generator=g)
        return images, torch.arange(n_way).repeat_interleave(per_class).expand(batch, -1)

    classes = torch.stack([torch.randperm(20, generator=g)[:n_way] for _ in range(batch)])
    return Episodes(*part(k_shot), *part(n_query), classes)


def double(e: Episodes) -> Episodes:
    return dataclasses.replace(e, support=e.support.double(), query=e.query.double())


def embeddings(seed: int = 0, k_shot: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(k_shot).expand(2, -1)
    return torch.randn(2, 4 * k_shot, 5, generator=g), labels, torch.randn(2, 7, 5, generator=g)


# --- all methods


@pytest.mark.parametrize("name", PARAMS)
def test_a_training_step_fills_every_gradient_and_prediction_is_a_distribution(name: str) -> None:
    method, e = build(name), episodes()
    with runtime.reproducible(0):
        loss = method.backward(e)
    assert loss.isfinite()
    assert not loss.requires_grad
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    method.eval()
    answer = method.predict(e.support, e.support_labels, e.query, 3)
    assert answer.shape == (2, 12, 3)
    torch.testing.assert_close(answer.sum(-1), torch.ones(2, 12))


@pytest.mark.parametrize("k_shot", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_order_of_queries_support_and_classes_changes_nothing_but_order(name: str, k_shot: int) -> None:
    method, e = build(name).eval().double(), double(episodes(k_shot=k_shot))
    expected = method.predict(e.support, e.support_labels, e.query, 3)

    queries = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    found = method.predict(e.support, e.support_labels, e.query[:, queries], 3)
    torch.testing.assert_close(found, expected[:, queries])

    order = torch.randperm(3 * k_shot, generator=torch.Generator().manual_seed(2))
    found = method.predict(e.support[:, order], e.support_labels[:, order], e.query, 3)
    torch.testing.assert_close(found, expected)

    renamed = torch.tensor([2, 0, 1])  # class c is now called renamed[c]
    found = method.predict(e.support, renamed[e.support_labels], e.query, 3)
    torch.testing.assert_close(found[..., renamed], expected)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"maml"}))
def test_without_transduction_a_query_is_answered_as_if_alone(name: str) -> None:
    method, e = build(name).eval().double(), double(episodes())
    assert not method.transductive
    together = method.predict(e.support, e.support_labels, e.query, 3)
    alone = method.predict(e.support, e.support_labels, e.query[:, 5:6], 3)
    torch.testing.assert_close(together[:, 5:6], alone)


def test_maml_with_query_statistics_is_transductive_and_says_so() -> None:
    method, e = build("maml").eval(), episodes()
    assert method.transductive
    together = method.predict(e.support, e.support_labels, e.query, 3)
    some = method.predict(e.support, e.support_labels, e.query[:, :6], 3)
    assert (together[:, :6] - some).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_model_predicts_the_same_and_needs_no_pickle(name: str, tmp_path) -> None:
    method, e = build(name).eval(), episodes()
    methods.save(method, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
    loaded = methods.load(tmp_path)
    expected = method.predict(e.support, e.support_labels, e.query, 3)
    assert torch.equal(loaded.predict(e.support, e.support_labels, e.query, 3), expected)
    assert loaded.parameter_count() == method.parameter_count()


def test_loading_what_is_no_model_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(MetashotError, match=r"model\.json: no such file"):
        methods.load(tmp_path)
    methods.save(build("maml"), tmp_path)
    good = json.loads((tmp_path / "model.json").read_text())
    for change, line in [
        ({"format": 99}, "format 99"),
        ({"method": "os"}, "unknown method 'os'"),
        ({"method": "../maml"}, "unknown method"),
        ({"method": "base"}, "unknown method"),
        ({"method": 5}, "unknown method"),
        ({"hyperparameters": {"lr": 4}}, "damaged or not a saved model"),
        ({"backbone": good["backbone"] | {"width": 5}}, "damaged or not a saved model"),
        ({"backbone": good["backbone"] | {"downsample": "fold"}}, "downsample: 'fold' is neither `pool`"),
    ]:
        (tmp_path / "model.json").write_text(json.dumps(good | change))
        with pytest.raises(MetashotError, match=line) as error:
            methods.load(tmp_path)
        assert "\n" not in str(error.value)
    for text in ("", "[]", "{}"):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(MetashotError, match="damaged or not a saved model"):
            methods.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(good))
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(MetashotError, match="damaged or not a saved model"):
        methods.load(tmp_path)


# --- backbone


def test_conv4_equals_the_network_of_the_papers() -> None:
    ours = Conv4Params(name="conv4", width=8, downsample="pool").build((1, 28, 28)).eval()
    layers: list[nn.Module] = []
    for block in ours.blocks:
        norm = nn.BatchNorm2d(8)
        norm.load_state_dict(block.norm.state_dict())
        layers += [block.conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
    reference = nn.Sequential(*layers, nn.Flatten()).eval()
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(ours(images), reference(images))
    assert ours(images).shape == (3, ours.features)


def test_parameters_of_conv4_64_are_those_published() -> None:
    # Four 3x3 convolutions of 64 filters with bias and batch normalisation on one channel.
    count = Conv4Params(name="conv4", width=64, downsample="pool").count((1, 28, 28))
    assert count == (9 + 3) * 64 + 3 * (9 * 64 + 3) * 64


@pytest.mark.parametrize("rows", [3, 8])
def test_statistics_of_the_first_rows(rows: int) -> None:
    norm = BatchNorm(4).double()
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = torch.randn(8, 4, 5, 5, dtype=torch.double)
    mean = x[:rows].mean((0, 2, 3), keepdim=True)
    var = ((x[:rows] - mean) ** 2).mean((0, 2, 3), keepdim=True)
    expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x, rows), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_is_convolution_and_batch_norm_however_it_is_computed(
    channels: int, downsample: Downsample, first: bool, training: bool
) -> None:
    block = Block(channels, 4, downsample, first).double()
    nn.init.uniform_(block.norm.weight, -1, 1)
    nn.init.uniform_(block.norm.bias)
    nn.init.uniform_(block.norm.running_var)
    plain = nn.Sequential(copy.deepcopy(block.conv), nn.BatchNorm2d(4).double())
    plain[1].load_state_dict(block.norm.state_dict())
    images = torch.rand(22, channels, 17, 17, dtype=torch.double)  # an odd size, and more than one part
    for _ in range(2):
        expected = plain.train(training)(images)
        expected = F.relu(F.max_pool2d(expected, 2) if downsample == "pool" else expected)
        out = block.train(training)(images)
        torch.testing.assert_close(out, expected)
    for now, then in zip(block.norm.buffers(), plain[1].buffers(), strict=True):
        torch.testing.assert_close(now, then)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    for now, then in zip(block.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(now.grad, then.grad)


# --- prototypical


def test_prototypes_and_distances_by_brute_force() -> None:
    support, labels, query = embeddings()
    logits = build("prototypical").classify(support, labels, query, 4)
    for b in range(2):
        for q in range(7):
            squared = []
            for c in range(4):
                members = [support[b, i] for i in range(12) if labels[b, i] == c]
                prototype = sum(members) / len(members)
                squared.append(sum((float(query[b, q, d]) - float(prototype[d])) ** 2 for d in range(5)))
            expected = torch.tensor([-s / 2 for s in squared]).softmax(0)
            torch.testing.assert_close(logits[b, q].softmax(0), expected)


def test_prototypical_with_one_shot_is_the_nearest_neighbour() -> None:
    support, labels, query = embeddings(k_shot=1)
    nearest = torch.cdist(query, support).argmin(-1)
    assert torch.equal(build("prototypical").classify(support, labels, query, 4).argmax(-1), nearest)


def test_prototypical_takes_unequal_shots() -> None:
    support, _, query = embeddings(k_shot=1)
    labels = torch.tensor([[0, 0, 0, 1]] * 2)
    found = build("prototypical").classify(support, labels, query, 2)
    means = torch.stack([support[:, :3].mean(1), support[:, 3]], dim=1)
    torch.testing.assert_close(found.softmax(-1), (-(torch.cdist(query, means) ** 2) / 2).softmax(-1))


# --- matching


def test_attention_sums_to_one_and_classes_get_their_members_weights() -> None:
    support, labels, query = embeddings()
    method = build("matching")
    weights = method.similarity(support, query).softmax(-1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    cosine = F.cosine_similarity(query.unsqueeze(2), support.unsqueeze(1), dim=-1)
    torch.testing.assert_close(weights, (cosine / 0.1).softmax(-1))
    expected = torch.stack([weights[..., labels[0] == c].sum(-1) for c in range(4)], dim=-1)
    torch.testing.assert_close(method.classify(support, labels, query, 4).exp(), expected)


# --- siamese


@pytest.mark.parametrize(
    ("distance", "same", "expected"),
    [
        ([0.5, 9.0], [True, False], (0.25 + 0) / 2),  # same: D^2; different beyond the margin: nothing
        ([0.0, 0.5], [True, False], (0 + 2.25) / 2),  # different within the margin: (2 - 0.5)^2
        ([1.0, 3.0, 1.0, 2.0], [True, True, False, False], ((1 + 9) / 2 + 1) / 2),  # one of the others counts
    ],
)
def test_contrastive_loss_values(distance: list[float], same: list[bool], expected: float) -> None:
    found = siamese.contrastive_loss(torch.tensor(distance), torch.tensor(same), margin=2.0)
    assert math.isclose(float(found), expected, rel_tol=1e-6)


def test_contrastive_loss_pulls_the_same_together_and_pushes_others_apart() -> None:
    distance = torch.tensor([1.0, 1.0, 3.0], requires_grad=True)
    siamese.contrastive_loss(distance, torch.tensor([True, False, False]), margin=2.0).backward()
    same, near, far = distance.grad.tolist()
    assert same > 0  # descending shortens this distance
    assert near < 0  # and lengthens this one
    assert far == 0


def test_siamese_loss_counts_each_pair_once() -> None:
    method, e = build("siamese", margin=0.5).double(), double(episodes(batch=1))
    images = torch.cat(method.embed_episodes(e), dim=1)[0]
    labels = torch.cat([e.support_labels, e.query_labels], dim=1)[0]
    same, different = [], []
    for i in range(len(images)):
        for j in range(i):
            distance = (images[i] - images[j]).norm()
            if labels[i] == labels[j]:
                same.append(distance**2)
            else:
                different.append(torch.clamp(method.params.margin - distance, min=0) ** 2)
    near = [cost for cost in different if cost > 0]
    assert 0 < len(near) < len(different)
    expected = (sum(same) / len(same) + sum(near) / len(near)) / 2
    torch.testing.assert_close(method.loss(e), expected)


def test_siamese_prefers_the_class_of_the_nearest_sample() -> None:
    support, labels, query = embeddings()
    distance = torch.cdist(query, support)
    expected = torch.stack([distance[..., labels[0] == c].amin(-1) for c in range(4)], dim=-1)
    torch.testing.assert_close(-build("siamese").classify(support, labels, query, 4), expected)


# --- transfer


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_each_head_is_fitted_as_by_plain_autograd(head: str) -> None:
    support, labels, query = embeddings()
    method = build("transfer", head=head)
    found = method.classify(support, labels, query, 4)
    for b in range(2):
        weight = torch.stack([support[b, labels[b] == c].mean(0) for c in range(4)])
        if head == "cosine":
            weight = 3 * weight / weight.norm(dim=1, keepdim=True)
        weight.requires_grad_()
        for _ in range(5):
            loss = F.cross_entropy(method.head(support[b], weight), labels[b])
            (gradient,) = torch.autograd.grad(loss, weight)
            weight = (weight - 0.1 * gradient).detach().requires_grad_()
        torch.testing.assert_close(found[b], method.head(query[b], weight))


@pytest.mark.parametrize("length", [1e-2, 1e2])
def test_a_cosine_head_does_not_depend_on_how_long_features_are(length: float) -> None:
    support, labels, query = embeddings()
    method = build("transfer", scale=30.0, head_steps=50)
    expected = method.classify(support.double(), labels, query.double(), 4)
    found = method.classify(length * support, labels, length * query, 4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_transfer_learns_the_classes_of_the_data_set() -> None:
    method, e = build("transfer").double(), double(episodes())
    images = torch.cat([e.support, e.query], dim=1)
    wanted = [
        e.classes[b, label]
        for b in range(2)
        for label in torch.cat([e.support_labels, e.query_labels], dim=1)[b]
    ]
    features = F.normalize(method.embed(images).flatten(0, 1), dim=-1)
    logits = 10.0 * features @ F.normalize(method.classifier, dim=-1).T
    torch.testing.assert_close(method.loss(e), F.cross_entropy(logits, torch.stack(wanted)))
    assert "classifier" not in method.inference_state()


# --- MAML


def plain_maml_logits(
    method: maml.Maml, e: Episodes, weights: dict[str, Tensor], lr: float, steps: int, second_order: bool
) -> Tensor:
    """Logits ``[B, M, 3]`` written again, with plain autograd; every step moves all weights."""

    def forward(weights: dict[str, Tensor], images: Tensor, stats_rows: int) -> Tensor:
        x = images
        for i in range(4):
            w = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if f"blocks.{i}." in k}
            x = F.conv2d(x, w["conv.weight"], w["conv.bias"], stride=2, padding=1)
            mean = x[:stats_rows].mean((0, 2, 3), keepdim=True)
            var = ((x[:stats_rows] - mean) ** 2).mean((0, 2, 3), keepdim=True)
            x = (x - mean) / (var + 1e-5).sqrt()
            x = F.relu(x * w["norm.weight"][:, None, None] + w["norm.bias"][:, None, None])
        x = x.mean((2, 3))
        return 4 * x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt() @ weights["head"].T

    found = []
    for b in range(len(e.support)):
        adapted = weights | {"head": torch.zeros(3, 4, dtype=torch.double, requires_grad=True)}
        for _ in range(steps):
            loss = F.cross_entropy(forward(adapted, e.support[b], len(e.support[b])), e.support_labels[b])
            gradient = torch.autograd.grad(loss, list(adapted.values()), create_graph=second_order)
            adapted = {
                k: v - lr * (3 * g if k == "head" else g)
                for (k, v), g in zip(adapted.items(), gradient, strict=True)
            }
        if method.transductive:
            found.append(forward(adapted, e.query[b], len(e.query[b])))
        else:
            both = torch.cat([e.support[b], e.query[b]])
            found.append(forward(adapted, both, len(e.support[b]))[len(e.support[b]) :])
    return torch.stack(found)


@pytest.mark.parametrize("query_norm", ["query", "support"])
@pytest.mark.parametrize("second_order", [True, False])
def test_maml_gradient_equals_a_plain_autograd_loop(second_order: bool, query_norm: str) -> None:
    method = build("maml", second_order=second_order, query_norm=query_norm).double()
    e = double(episodes(k_shot=2))
    loss = method.backward(e)
    weights = {k: v.detach().requires_grad_() for k, v in method.backbone.named_parameters()}
    logits = plain_maml_logits(method, e, weights, lr=0.3, steps=2, second_order=second_order)
    expected = F.cross_entropy(logits.flatten(0, 1), e.query_labels.flatten())
    gradient = torch.autograd.grad(expected, list(weights.values()))
    torch.testing.assert_close(loss, expected.detach())
    for (key, parameter), wanted in zip(method.backbone.named_parameters(), gradient, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("query_norm", ["query", "support"])
def test_maml_predicts_after_the_steps_of_the_test(query_norm: str) -> None:
    method = build("maml", query_norm=query_norm).eval().double()
    e = double(episodes(k_shot=2))
    weights = {k: v.detach().requires_grad_() for k, v in method.backbone.named_parameters()}
    expected = plain_maml_logits(method, e, weights, lr=0.1, steps=5, second_order=False)
    found = method.predict(e.support, e.support_labels, e.query, 3)
    torch.testing.assert_close(found, expected.detach().softmax(-1))


def test_maml_second_order_gradient_equals_finite_differences() -> None:
    method, e = build("maml").double(), double(episodes(k_shot=2))
    method.backward(e)
    g = torch.Generator().manual_seed(3)
    start = method.weights()
    for key in ("blocks.3.conv.weight", "blocks.0.norm.bias"):
        direction = torch.randn(start[key].shape, generator=g, dtype=torch.double)
        step = 1e-6

        def loss_at(shift: float, key: str = key, direction: Tensor = direction) -> Tensor:
            moved = {**start, key: start[key] + shift * direction}
            tensors = (e.support, e.support_labels, e.query, e.query_labels)
            per_task = [method.query_loss(moved, 3, *(t[b] for t in tensors)) for b in range(2)]
            return torch.stack(per_task).mean()

        numeric = (loss_at(step) - loss_at(-step)) / (2 * step)
        analytic = (dict(method.backbone.named_parameters())[key].grad * direction).sum()
        torch.testing.assert_close(analytic, numeric, rtol=1e-5, atol=1e-8)


def test_first_order_differs_from_second_order() -> None:
    found = []
    for second_order in (True, False):
        method = build("maml", second_order=second_order).double()
        method.backward(double(episodes()))
        found.append(torch.cat([p.grad.flatten() for p in method.parameters()]))
    assert (found[0] - found[1]).abs().max() > 1e-3 * found[1].abs().max()


BACKBONES = [
    (Conv4Params(name="conv4", width=4, downsample="pool"), images.form(16, 1)),
    (Conv4Params(name="conv4", width=4, downsample="stride"), images.form(16, 3)),
    (Resnet12Params(name="resnet12", width=2, drop_rate=0.1, drop_size=2), images.form(16, 3)),
    (Conv1dParams(name="conv1d", width=4, kernel=3), Form("series", (2, 16), "float32", {})),
    (
        NgramsParams(name="ngrams", buckets=16, width=4, drop_rate=0.1),
        Form("texts", (9,), "int32", {}),
    ),
    (DenseParams(name="dense"), Form("sentences", (6,), "float32", {})),
]


@pytest.mark.parametrize(("backbone", "form"), BACKBONES, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_vmap_in_the_layout_of_a_gpu_and_the_loop_of_a_cpu_give_the_same(
    name: str, backbone: backbones.Params, form: Form, monkeypatch
) -> None:
    g = torch.Generator().manual_seed(0)

    def drawn(of_class: int) -> tuple[Tensor, Tensor]:
        shape = (3, 3 * of_class, *form.shape)
        integers = torch.randint(0, 1000, shape, generator=g)
        samples = integers if form.dtype == "int32" else integers.double() / 1000
        return samples, torch.arange(3).repeat_interleave(of_class).expand(3, -1)

    e = Episodes(*drawn(1), *drawn(4), torch.arange(3).expand(3, -1))
    gradients, answers = [], []
    for gpu in (False, True):
        cls = methods.METHODS[name]
        with runtime.reproducible(0):
            method = cls(cls.params_type(**PARAMS[name]), base.Problem(form, backbone)).double()
        monkeypatch.setattr(cls, "maps_tasks", gpu)
        for module in (backbones, backbones.base):
            monkeypatch.setattr(module, "channels_last", lambda device, gpu=gpu: not gpu)
        with runtime.reproducible(5):
            method.backward(e)
        gradients.append([p.grad for p in method.parameters()])
        answers.append(method.eval().predict(e.support, e.support_labels, e.query, 3))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_vmap_gets_weights_in_the_usual_layout(name: str, monkeypatch) -> None:
    """What torch makes of another one under vmap differs by version and device, down to a refusal."""

    def usual(weight: Tensor) -> bool:
        return weight.stride() == torch.empty(weight.shape).stride()

    method = build(name)
    assert not all(usual(parameter) for parameter in method.parameters())
    monkeypatch.setattr(type(method), "maps_tasks", True)
    assert all(usual(weight) for weight in method.weights().values())


def test_a_gpu_is_asked_for_float32_and_not_for_tf32() -> None:
    for part in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul):
        part.fp32_precision = "tf32"
    runtime.best_device()
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


# --- starts


def test_the_head_of_transfer_starts_small() -> None:
    cls = methods.METHODS["transfer"]
    problem = base.Problem(FORM, NETWORKS["transfer"], train_classes=3000)
    start = cls(cls.params_type(**PARAMS["transfer"]), problem).classifier.detach()
    assert start.shape == (3000, 4)
    assert abs(float(start.std()) - 0.1) < 0.005
    assert abs(float(start.mean())) < 0.005


def test_weights_of_classes_without_samples_are_finite() -> None:
    found = base.class_weights(torch.tensor([0, 0, 0, 2]), 4, torch.double)
    torch.testing.assert_close(found[[0, 2]], torch.tensor([1 / 3, 1.0]).double())
    torch.testing.assert_close(found[[1, 3]], torch.tensor([1.0, 1.0]).double())
    unequal = base.class_weights(torch.tensor([[0, 1, 1], [0, 0, 1]]), 2, torch.float32)
    torch.testing.assert_close(unequal, torch.tensor([[1.5, 0.75], [0.75, 1.5]]))


# --- unequal supports


def repeated(labels: Tensor, times: int) -> Tensor:
    """Rows of a support set with those of class 0 there so many times, mixed with the others."""
    rows = [row for row, label in enumerate(labels.tolist()) for _ in range(1 if label else times)]
    return torch.tensor(rows)[torch.randperm(len(rows), generator=torch.Generator().manual_seed(4))]


@pytest.mark.parametrize("times", [2, 7])
@pytest.mark.parametrize("k_shot", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_class_shown_several_times_over_weighs_no_more(name: str, k_shot: int, times: int) -> None:
    # A backbone without batch statistics, which depend on the support set as a whole
    form = Form("sentences", (6,), "float32", {})
    backbone = IdentityParams(name="identity") if name in FREE else DenseParams(name="dense")
    method = small_models.build(name, base.Problem(form, backbone, train_classes=20)).eval().double()
    g = torch.Generator().manual_seed(1)
    support, query = (torch.randn(2, rows, 6, generator=g, dtype=torch.double) for rows in (4 * k_shot, 9))
    labels = torch.arange(4).repeat_interleave(k_shot)
    expected = method.predict(support, labels.expand(2, -1), query, 4)
    rows = repeated(labels, times)
    found = method.predict(support[:, rows], labels[rows].expand(2, -1), query, 4)
    torch.testing.assert_close(found, expected)


def test_one_adaptation_step_on_unequal_supports_is_nearest_class_by_inner_product() -> None:
    method = build("maml", test_lr=0.3, test_steps=1, query_norm="support").eval().double()
    e = double(episodes(k_shot=4))
    kept = torch.tensor([0, 4, 5, 8, 9, 10, 11])  # one, two and four samples
    support, labels = e.support[:, kept], e.support_labels[:, kept]
    found = method.predict(support, labels, e.query, 3)
    for b in range(2):
        both = method.backbone(torch.cat([support[b], e.query[b]]), len(kept))
        features = both / (both.square().mean(1, keepdim=True) + 1e-3).sqrt() * 4
        means = torch.stack([features[: len(kept)][labels[b] == n].mean(0) for n in range(3)])
        logits = features[len(kept) :] @ (0.3 * (means - means.mean(0))).T
        torch.testing.assert_close(found[b], logits.softmax(1))


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_one_model_answers_any_number_of_classes(name: str) -> None:
    method = build(name, train_way=3).eval().double()
    e = double(episodes(n_way=5, k_shot=2))
    answers = method.predict(e.support, e.support_labels, e.query, 5)
    assert answers.shape == (2, 20, 5)
    torch.testing.assert_close(answers.sum(-1), torch.ones(2, 20).double())
    two = double(episodes(n_way=2))
    assert method.predict(two.support, two.support_labels, two.query, 2).shape == (2, 8, 2)


@pytest.mark.parametrize("n_way", [3, 5])
def test_one_step_is_nearest_class_by_inner_product(n_way: int) -> None:
    """From zero, a row moves by the mean of its class less that of all: in closed form, whatever N is."""
    method = build("maml", test_lr=0.3, test_steps=1, query_norm="support").eval().double()
    e = double(episodes(n_way=n_way, k_shot=2))
    for b in range(2):
        both = method.backbone(torch.cat([e.support[b], e.query[b]]), 2 * n_way)
        features = both / (both.square().mean(1, keepdim=True) + 1e-3).sqrt() * 4  # of length 8
        means = torch.stack([features[: 2 * n_way][e.support_labels[b] == n].mean(0) for n in range(n_way)])
        logits = features[2 * n_way :] @ (0.3 * (means - means.mean(0))).T
        found = method.predict(e.support[b : b + 1], e.support_labels[b : b + 1], e.query[b : b + 1], n_way)
        torch.testing.assert_close(found[0], logits.softmax(1))


@pytest.mark.parametrize("width", [5, 9])
def test_features_under_the_classifier_have_one_length(width: int) -> None:
    form = Form("texts", (6,), "int32", {})
    backbone = NgramsParams(name="ngrams", buckets=16, width=width, drop_rate=0.0)
    method = small_models.build("maml", base.Problem(form, backbone)).double()
    weights = {**method.weights(), "head": torch.eye(width).double()}
    texts = torch.randint(1, 1000, (7, 6))
    features = method.logits(weights, texts, 7)
    torch.testing.assert_close(features.norm(dim=1), torch.full((7,), 8.0).double(), rtol=1e-3, atol=0)
    small = {**weights, "norm.weight": 1e-6 * weights["norm.weight"]}
    assert (method.logits(small, texts, 7).norm(dim=1) < 1e-3).all()


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_constants_that_are_fitted_after_a_prediction_count_in_the_next(name: str) -> None:
    """Threads adapt copies of the backbone; the mean of the training split must not be that of the copy."""
    problem = base.Problem(Form("sentences", (6,), "float32", {}), DenseParams(name="dense"))
    support, query = torch.randn(1, 3, 6), torch.randn(1, 4, 6)
    late, early = small_models.build(name, problem), small_models.build(name, problem)
    late.predict(support, torch.arange(3)[None], query, 3)
    for method in (late, early):
        method.fit([torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) + 3])
    answers = [method.predict(support, torch.arange(3)[None], query, 3) for method in (late, early)]
    torch.testing.assert_close(*answers, rtol=0, atol=0)


def test_an_inner_step_needs_samples_and_labels() -> None:
    method, e = build("maml"), episodes(batch=3)
    with pytest.raises(ValueError, match="zip"):
        method.adapt(method.weights(), 3, e.support, e.support_labels[:2], 0.1)


# --- Reptile


def test_the_gradient_of_reptile_leads_to_the_mean_of_the_adapted_weights() -> None:
    # With every image in every inner batch the order is immaterial, so SGD by hand must agree.
    method, e = build("reptile", inner_shot=5).double(), double(episodes())
    old = {k: v.clone() for k, v in method.weights().items()}
    adapted = []
    for b in range(2):
        backbone = copy.deepcopy(method.backbone)
        head = torch.zeros(3, 4, dtype=torch.double, requires_grad=True)
        sgd = torch.optim.SGD([{"params": backbone.parameters()}, {"params": head, "lr": 0.9}], lr=0.3)
        images = torch.cat([e.support[b], e.query[b]])
        labels = torch.cat([e.support_labels[b], e.query_labels[b]])
        for _ in range(2):
            sgd.zero_grad()
            features = backbone(images, len(images))
            features = 4 * features / (features.square().mean(1, keepdim=True) + 1e-3).sqrt()
            F.cross_entropy(features @ head.T, labels).backward()
            sgd.step()
        adapted.append({k: v.detach() for k, v in backbone.named_parameters()})
    method.backward(e)
    for key, parameter in method.backbone.named_parameters():
        mean = (adapted[0][key] + adapted[1][key]) / 2
        torch.testing.assert_close(parameter.grad, old[key] - mean)


def test_inner_batches_hold_every_class_equally_and_use_every_image_once_in_a_pass() -> None:
    method = build("reptile", inner_steps=5, inner_shot=1)
    labels = torch.arange(3).repeat(5)  # five images of each class, classes interleaved
    with runtime.reproducible(0):
        order = method.draw(labels, 3)
    assert order.shape == (5, 3)
    assert sorted(order.flatten().tolist()) == list(range(15))
    assert all(sorted(labels[batch].tolist()) == [0, 1, 2] for batch in order)
    with runtime.reproducible(1):
        assert not torch.equal(method.draw(labels, 3), order)


def test_inner_batches_are_as_many_passes_as_are_needed() -> None:
    """Each class by itself, pass after pass: no more is drawn, for that would change what comes after."""
    method = build("reptile", inner_steps=2, inner_shot=2)
    torch.manual_seed(0)
    passes = [torch.cat([torch.randperm(3), torch.randperm(3)])[:4] for _ in range(2)]
    after = torch.rand(1)
    torch.manual_seed(0)
    order = method.draw(torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert order.tolist() == [[*passes[0][i : i + 2], *(3 + passes[1][i : i + 2])] for i in (0, 2)]
    assert torch.equal(torch.rand(1), after)


# --- hyper-parameters


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("prototypical", "lr", 0.0),
        ("prototypical", "train_way", 1),
        ("prototypical", "temperature", 0.0),
        ("matching", "temperature", -1.0),
        ("siamese", "margin", 0.0),
        ("transfer", "head_steps", 0),
        ("maml", "inner_lr", 0.0),
        ("maml", "test_lr", -0.1),
        ("maml", "train_way", 1),
        ("reptile", "inner_shot", 0),
    ],
)
def test_impossible_values_are_refused_by_name(name: str, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        build(name, **{key: value})
