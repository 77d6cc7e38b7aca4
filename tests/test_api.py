"""`import metashot` as a person uses it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from project import ROOT

import metashot
from metashot import api

PAGE = (ROOT / "docs/python.md").read_text()


def test_public_names_are_those_that_can_be_imported() -> None:
    assert metashot.__all__ == sorted(metashot.__all__) == api.__all__
    for name in metashot.__all__:
        assert getattr(metashot, name) is getattr(api, name)
        assert name in dir(metashot)
    stub = (ROOT / "metashot/__init__.pyi").read_text()
    assert re.findall(r"(\w+) as \1", stub) == metashot.__all__
    assert re.fullmatch(r"\d+\.\d+\.\d+", metashot.__version__)
    with pytest.raises(AttributeError, match="module 'metashot' has no attribute 'nothing'"):
        metashot.nothing  # noqa: B018


def test_import_is_light_and_needs_none_of_the_pipeline() -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'dvc', 'prefect', 'mlflow'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import metashot\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "metashot.build, metashot.make_samples, metashot.load_registered\n"
        "print(metashot.__version__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_program_of_the_page_trains(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = map(float, re.findall(r"([\d.]+)% (?:untrained|±)", done.stdout))
    assert before + 20 < after
    loaded = metashot.load(tmp_path / "work/model")
    test = metashot.load_samples(tmp_path / "work/samples.parquet", "test")
    asked = metashot.draw_episodes(test, n_way=5, k_shot=1, n_query=15, episodes=200)
    assert f"{metashot.evaluate(loaded, test, asked).accuracy:.1%}" == f"{after}%"


GLYPHS = {"raw": {"seed": 0, "writers": 3}, "prepare": {"image_size": 28, "rotations": False}}
NETWORK = {"name": "conv4", "width": 4, "downsample": "pool"}
HYPER = {"lr": 2e-3, "meta_batch": 1, "train_way": 5, "temperature": 16.0}


def glyphs(**changes: dict) -> Callable[[Path], object]:
    sections = {name: {**GLYPHS[name], **changes.get(name, {})} for name in GLYPHS}
    return lambda path: metashot.make_samples("glyphs", path, **sections)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: metashot.load_samples(path / "no.parquet", "test"), "no such file"),
        (lambda path: metashot.load(path), "not a saved model"),
        (lambda path: metashot.make_samples("klingon", path, raw={}, prepare={}), "unknown source 'klingon'"),
        (lambda path: metashot.make_samples("glyphs", path, raw={}, prepare={}), "raw.seed: missing; raw.w"),
        (glyphs(raw={"pens": 2}), r"raw.pens: unknown key \(known here: seed, writers\)"),
        (glyphs(prepare={"image_size": 1}), "prepare.image_size: 1 is not between 8 and"),
        (glyphs(prepare={"image_size": "28"}), "prepare.image_size: Input should be a valid integer"),
    ],
)
def test_a_mistake_is_one_line(call: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(metashot.MetashotError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.fixture
def train() -> metashot.SampleSet:
    """Ten classes of four pictures."""
    samples = np.zeros((40, 1, 28, 28), np.uint8)
    form = metashot.Form("images", (1, 28, 28), "uint8", {})
    return metashot.SampleSet(
        samples, np.arange(40) // 4, [str(c) for c in range(10)], form, "0" * 32, "train"
    )


@pytest.mark.parametrize(
    ("backbone", "hyper", "message"),
    [
        ({"name": "resnet99"}, {}, "backbone.name: unknown backbone 'resnet99': there are colours, conv1d"),
        ({"name": None}, {}, "backbone.name: missing: set one of colours, conv1d, "),
        ({"width": "4"}, {}, "backbone.width: Input should be a valid integer"),
        ({"depth": 4}, {}, "backbone.depth: unknown key"),
        ({}, {"lr": -1.0}, "prototypical.lr: must be positive"),
        ({}, {"learning_rate": 1.0}, "prototypical.learning_rate: unknown key"),
    ],
)
def test_a_mistake_in_a_model_is_one_line(
    backbone: dict, hyper: dict, message: str, train: metashot.SampleSet
) -> None:
    with pytest.raises(metashot.MetashotError, match=message) as caught:
        metashot.build("prototypical", train, backbone=NETWORK | backbone, **HYPER | hyper)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["n_way", "k_shot", "n_query", "episodes"])
def test_episodes_need_numbers_above_nothing(key: str, train: metashot.SampleSet) -> None:
    shape = {"n_way": 2, "k_shot": 1, "n_query": 1, "episodes": 3}
    assert len(metashot.draw_episodes(train, **shape)) == 3
    least = 2 if key == "n_way" else 1
    with pytest.raises(metashot.MetashotError, match=f"{key}: must be {least} or more, not {least - 1}"):
        metashot.draw_episodes(train, **shape | {key: least - 1})
