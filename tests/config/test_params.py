"""params.yaml: what is refused, and in which words."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT, Edit

from metashot.config.check import check
from metashot.config.edit import edited
from metashot.config.params import Setting, read
from metashot.errors import MetashotError


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
            "params.yaml: setting.5w1s.extra.5w1s: has the name of the setting",
        ),
        (lambda p: p["setting"].update({"../x": p["setting"]["5w1s"]}), "params.yaml: setting.../x"),
        (
            lambda p: p["methods"].append("nearest"),
            "params.yaml: methods: unknown method 'nearest': there are centroid, maml, ",
        ),
        (lambda p: p["method"].update(nearest={}), "params.yaml: method.nearest: unknown method 'nearest'"),
        (lambda p: p["method"].update(base={}), "params.yaml: method.base: unknown method 'base'"),
        (
            lambda p: p["data"]["glyphs"].update(source="store"),
            "params.yaml: data.glyphs.source: unknown source 'store': there are ",
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
        (
            lambda p: p["data"]["glyphs"]["backbone"].update(name="vgg"),
            "params.yaml: data.glyphs.backbone.name: unknown backbone",
        ),
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
        (
            lambda p: p["data"]["image_folder"]["prepare"]["split"].pop("test"),
            "params.yaml: data.image_folder.prepare.split.test: missing",
        ),
        (
            lambda p: p["data"]["image_folder"]["prepare"].update(split="lists"),
            "params.yaml: data.image_folder.prepare.split: Input should be an object or Input should be",
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
    assert "literal[" not in str(refusal.value)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]\n"
    for above, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (BOMB, "line 5: expands to more than 50,000 values: shorten it"),
        ("a: &a [*a]", "a.0 (line 1): nothing before the alias *a has that name"),
        ("\n".join(f"k{n}: 1" for n in range(400_000)), "larger than 1,000,000 bytes: shorten it"),
        ("\n".join(f"k{n}: 1" for n in range(60_000)), "line 25000: expands to more than 50,000 values"),
        ("[" * 100_000, "line 1: more than 30 nested mappings and lists"),
        ("{a: " * 50_000, "line 1: more than 30 nested mappings and lists"),
        ("seed: " + "1" * 5000, "seed (line 1): a number of 5,000 digits is too long"),
        ("seed: 0x" + "f" * 5000, "seed (line 1): a number of 5,002 digits is too long"),
        ("seed: " + "9" * 99, "seed: must be between -2**63 and 2**63 (it is 99999"),
        ("a: {b: [1, .nan]}", "a.b.1: must be a finite number (it is nan)"),
        ("a: 1e999", "a: must be a finite number (it is inf)"),
        ("a: !!python/object/apply:os.system [id]", "a (line 1): tags such as 'tag:yaml.org,2002:python"),
        ("a: !!binary aGk=", "a (line 1): tags such as 'tag:yaml.org,2002:binary' are not taken"),
        ("a: 2024-01-01", "a: a date is not allowed: put it in quotes"),
        ("a: 2024-13-45", "not YAML: month must be in 1..12"),
        ("a: {b: 1, c: 2,\n  b: 3}", "a.b: written twice (lines 1 and 2): delete one"),
        ("a: {1: 2}", "a: the key 1 is not a string: put it in quotes"),
        ("? [a]\n: 1", "the file (line 1): a key must be a string"),
        (
            '"a\\e[31m": 1',
            "the file (line 1): the key 'a\\x1b[31m' is longer than 200 characters, or has unprintable",
        ),
        (f"{'a' * 201}: 1", "the file (line 1): the key 'aaaa"),
        ('a: "b\\0"', "a: has the control character '\\x00': delete it"),
        ("a:\n\tb: 1", "not YAML: line 2: found character that cannot start any token: indent with spaces"),
        ("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> c\n", "merge conflict (line 2 has git's"),
        ("a: 1\n---\nb: 1", "not YAML: line 2: "),
        ("<<: [1]", "not YAML: line 1: "),
        ("seed: 1".encode("utf-16").decode("latin-1"), "not YAML: byte 1 is not UTF-8: save it as UTF-8"),
    ],
    ids=range(26),
)
def test_no_file_hurts_before_it_is_refused(path: Path, text: str, line: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    began = time.process_time()
    with pytest.raises(MetashotError) as refusal:
        check(path)
    assert str(refusal.value).startswith(f"params.yaml: {line}")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300
    assert time.process_time() - began < 5


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(MetashotError, match=r"params.yaml: not a file: put one in its place$"):
        check(tmp_path / "params.yaml")


def test_a_byte_order_mark_aliases_and_merged_keys_are_read_and_kept(path: Path) -> None:
    text = "\ufeff" + path.read_text().replace(
        "photos_5w5s:\n    {n_way: 5,", "photos_5w5s: &five\n    {n_way: 5,"
    ).replace("method:\n", "  5w5s_again: {<<: *five, test_episodes: 20}\nmethod:\n", 1)
    path.write_text(text)
    check(path)
    setting = read(path, "setting.5w5s_again", Setting)
    assert (setting.k_shot, setting.test_episodes) == (5, 20)
    after = edited(text, "seed", 7)
    assert after == text.replace("seed: 0", "seed: 7", 1)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", True, "seed: Input should be a valid integer (it is True)"),
        ("seed", "1", "seed: Input should be a valid integer (it is '1')"),
        ("seed", 1.0, "seed: Input should be a valid integer (it is 1.0)"),
        ("seed", None, "seed: Input should be a valid integer (it is None)"),
        ("threads", "2", "threads: Input should be a valid integer"),
        ("threads", 10**9, "threads: Input should be less than or equal to 1024"),
        ("method.maml.lr", "0.1", "method.maml.lr: Input should be a valid number"),
        ("method.maml.lr", True, "method.maml.lr: Input should be a valid number"),
        ("method.maml.lr", 1e39, "method.maml.lr: must be positive and at most 1e+30"),
        ("method.maml.second_order", 1, "method.maml.second_order: Input should be a valid boolean"),
        ("method.maml.inner_steps", 10**6, "method.maml.inner_steps: must be positive and at most 10,000"),
        ("method.maml.train_way", 10**6, "method.maml.train_way: must be between 2 and 10,000"),
        ("data.glyphs.budget.maml", True, "data.glyphs.budget.maml: needs outer steps"),
        ("data.glyphs.budget.maml", 10**9, "data.glyphs.budget.maml: needs outer steps"),
        ("data.glyphs.budget.maml", {"steps": 5, "lr": "1"}, "data.glyphs.budget.maml.lr: Input should be"),
        ("data.glyphs.backbone.width", 10_000_000, "data.glyphs.backbone.width: 10000000 is not"),
        ("data.glyphs.backbone.width", 16_384, "data.glyphs.backbone: has 7,248,101,376 weights"),
        ("data.clinc150.backbone.buckets", 2**24, "data.clinc150.backbone: has 4,294,967,808 weights"),
        ("data.clinc150.backbone.buckets", 2**60, "data.clinc150.backbone.buckets: 11529215"),
        ("data.clinc150_sentences.prepare.width", 10**9, "data.clinc150_sentences.prepare.width: 1000"),
        ("data.audio_folder.prepare.window_ms", 6e4, "data.audio_folder.prepare.window_ms: 60000.0 is not"),
        (
            "data.series_table.prepare",
            {"channels": [f"c{n}" for n in range(20)], "length": 1_000_000, "fit": "crop",
             "standardise": "none", "repeated": "refuse", "split": "listed"},
            "data.series_table.prepare: a sample has 20,000,000 numbers, more than 10,000,000",
        ),
        ("setting.5w1s.n_way", 10**9, "setting.5w1s.n_way: Input should be less than or equal to 10000"),
        ("setting.5w1s.k_shot", True, "setting.5w1s.k_shot: Input should be a valid integer"),
        ("setting.5w1s.train_episodes", 200_000, "setting.5w1s.train_episodes: 72,000,000"),
        ("setting.5w1s.train_episodes", 10**6 * 2, "setting.5w1s.train_episodes: Input should be less than"),
        ("gate.min_accuracy", "0.5", "gate.min_accuracy: Input should be a valid number"),
        ("cross", None, "cross: Input should be an object"),
        ("data.GLYPHS", {}, "data.GLYPHS"),
        ("setting.-x", {}, "setting.-x: a name needs a letter, and letters, digits and _ only"),
        ("setting.é", {}, "setting.é: a name needs a letter"),
        ("setting.1", {}, "setting.1: a name needs a letter"),
        (f"setting.{'a' * 61}", {}, f"setting.{'a' * 61}: String should have at most 60 characters"),
    ],
)  # fmt: skip
def test_types_are_strict_and_numbers_bounded(path: Path, key: str, value: object, line: str) -> None:
    *above, last = key.split(".")
    with Edit(path) as params:
        section = params
        for part in above:
            section = section[part]
        section[last] = value
        if key == "setting.5w1s.train_episodes":
            params["setting"]["5w1s"]["train_query"] = 99
            line = line.replace(
                "72,000,000", "1,200,000,000 samples in total, more than 500,000,000: lower it"
            )
    with pytest.raises(MetashotError) as refusal:
        check(path)
    assert str(refusal.value).startswith(f"params.yaml: {line}")
    assert "\n" not in str(refusal.value)


def test_names_that_differ_by_case_alone_are_refused_and_whole_numbers_are_fractions(path: Path) -> None:
    with Edit(path) as params:
        params["method"]["maml"]["lr"] = 1
        params["gate"]["min_accuracy"] = 0
    check(path)
    with Edit(path) as params:
        params["data"]["Glyphs"] = params["data"]["glyphs"]
    with pytest.raises(MetashotError, match=r"^params.yaml: data.Glyphs: differs from glyphs by case only"):
        check(path)


def test_many_mistakes_are_three_and_a_count(path: Path) -> None:
    with Edit(path) as params:
        params.update({f"k{n}": n for n in range(1000)})
    with pytest.raises(MetashotError, match=r"^params.yaml: k0: .*; k1: .*; k2: .*; 997 more$"):
        check(path)


@pytest.mark.parametrize("text", ["", "[]", "seed: [", "seed: 1\nseed: 2\n", "\xff", "text"])
def test_what_is_no_parameter_file_is_one_line(path: Path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(MetashotError) as refusal:
        check(path)
    assert str(refusal.value).startswith("params.yaml: ")
    assert "\n" not in str(refusal.value)
