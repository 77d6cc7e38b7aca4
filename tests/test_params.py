"""params.yaml: what is refused, and in which words."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT, Edit

from metashot.errors import MetashotError
from metashot.params import check


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real parameters, as a stage finds them."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path("params.yaml")


def test_the_parameters_of_the_repository_are_right(path: Path) -> None:
    check(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda p: p["method"]["maml"].update(iner_lr=1), "params.yaml: method.maml.iner_lr: unknown key"),
        (lambda p: p["method"]["siamese"].update(margin="far"), "params.yaml: method.siamese.margin: "),
        (lambda p: p["method"]["reptile"].pop("lr"), "params.yaml: method.reptile.lr: missing"),
        (
            lambda p: p["setting"]["5w1s"].update(n_way=1),
            "params.yaml: setting.5w1s.n_way: ",
        ),
        (lambda p: p["setting"]["5w1s"].update(train_way=4), "params.yaml: setting.5w1s.train_way: must be"),
        (
            lambda p: p["setting"]["5w1s"]["extra"].update({"5w1s": p["setting"]["5w1s"]["extra"]["5w5s"]}),
            "params.yaml: setting.5w1s.extra.5w1s: called like",
        ),
        (lambda p: p["setting"].update({"../x": p["setting"]["5w1s"]}), "params.yaml: setting.../x"),
        (lambda p: p["methods"].append("nearest"), "params.yaml: method.nearest: missing"),
        (lambda p: p["method"].update(nearest={}), "params.yaml: method.nearest: unknown method 'nearest'"),
        (lambda p: p["method"].update(base={}), "params.yaml: method.base: unknown method 'base'"),
        (
            lambda p: p["data"]["glyphs"].update(source="store"),
            "params.yaml: data.glyphs.source: 'store' is no source",
        ),
        (lambda p: p["datasets"].append("mine"), "params.yaml: data.mine: missing"),
        (lambda p: p.update(methods=[]), "params.yaml: methods: needs at least one name"),
        (lambda p: p.update(seed=-1), "params.yaml: seed: "),
        (lambda p: p["method"]["maml"].update(lr=float("inf")), "params.yaml: method.maml.lr: must be"),
        (
            lambda p: p["data"]["omniglot"]["prepare"].update(split="x"),
            "params.yaml: data.omniglot.prepare.split: ",
        ),
        (
            lambda p: p["data"]["glyphs"]["backbone"].update(depth=3),
            "params.yaml: data.glyphs.backbone.depth: ",
        ),
        (lambda p: p["data"]["glyphs"]["backbone"].update(name="vgg"), "params.yaml: data.glyphs.backbone: "),
        (
            lambda p: p["data"]["glyphs"]["backbone"].update(width=0),
            "params.yaml: data.glyphs.backbone.width: 0",
        ),
        (
            lambda p: p["data"]["glyphs"]["prepare"].update(image_size=12),
            "params.yaml: data.glyphs.backbone: Conv-4",
        ),
        (
            lambda p: p["data"]["glyphs"]["augment"].update(shift=2),
            "params.yaml: data.glyphs.augment.shift: 2",
        ),
        (lambda p: p["data"]["glyphs"].update(size=3), "params.yaml: data.glyphs.size: unknown key"),
        (lambda p: p.update(sead=1), "params.yaml: sead: unknown key"),
        (
            lambda p: p["data"]["glyphs"]["budget"].pop("maml"),
            "params.yaml: data.glyphs.budget.maml: missing",
        ),
        (lambda p: p["data"]["glyphs"]["budget"].update(maml=0), "params.yaml: data.glyphs.budget.maml: "),
        (
            lambda p: p["data"]["glyphs"]["budget"].update(maml={"inner_lr": 0.1}),
            "params.yaml: data.glyphs.budget.maml: needs outer steps, a whole number above 0 and at most",
        ),
        (
            lambda p: p["data"]["glyphs"]["budget"].update(maml={"steps": 5, "inner_rate": 0.1}),
            "params.yaml: data.glyphs.budget.maml.inner_rate: unknown key (known here: lr, ",
        ),
        (
            lambda p: p["data"]["glyphs"]["budget"].update(maml={"steps": 5, "inner_lr": -1}),
            "params.yaml: data.glyphs.budget.maml.inner_lr: must be positive",
        ),
        (lambda p: p["gate"].update(min_acuracy=0.5), "params.yaml: gate.min_acuracy: unknown key"),
        (lambda p: p["gate"].update(min_accuracy=95), "params.yaml: gate.min_accuracy: "),
        (lambda p: p["gate"].pop("allowed_regression"), "params.yaml: gate.allowed_regression: missing"),
        (lambda p: p.pop("gate"), "params.yaml: gate: missing"),
    ],
)
def test_a_wrong_parameter_is_named(path: Path, change: Callable[[dict], None], line: str) -> None:
    with Edit(path) as params:
        change(params)
    with pytest.raises(MetashotError) as refusal:
        check(path)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "seed: [", "seed: 1\nseed: 2\n", "\xff", "text"])
def test_what_is_no_parameter_file_is_one_line(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(MetashotError) as refusal:
        check(path)
    assert str(refusal.value).startswith("params.yaml: ")
    assert "\n" not in str(refusal.value)
