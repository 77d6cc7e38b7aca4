"""Lineage documents, records and metrics: they hold what the files hold, and write what they parsed."""

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import synthetic
import yaml

from metashot.errors import MetashotError
from metashot.lineage import document, record
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.lineage.metrics import Metrics
from metashot.lineage.record import Record, TrainingRecord

CELL = "glyphs-5w1s/matching"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def computed(root: Path) -> Document:
    lock = Lock(root)
    return Document.of_cell(lock, lock.cell("glyphs", "5w1s", "matching"))


def test_a_document_holds_what_the_files_hold(root: Path, computed: Document) -> None:
    def held(path: str) -> Any:
        return json.loads((root / path).read_text())

    written = computed.written
    assert written["metrics"] == held(f"results/{CELL}/metrics.json")
    assert written["training"] == held(f"records/train/{CELL}/record.json")
    assert written["evaluation"] == held(f"records/evaluate/{CELL}/record.json")
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    for name, stage in written["stages"].items():
        assert stage["cmd"] == stages[name]["cmd"]
        for part in ("deps", "outs"):
            expected = stages[name].get(part, [])
            assert stage[part] == sorted(expected, key=lambda item: item["path"]), (name, part)
    assert {"train@glyphs-5w1s-matching", "evaluate@glyphs-5w1s-matching"} < set(written["stages"])
    assert computed.weights == next(
        out["md5"] for out in stages["train@glyphs-5w1s-matching"]["outs"] if out["path"] == f"models/{CELL}"
    )


def test_what_is_parsed_is_written_again_with_the_same_digest(computed: Document) -> None:
    text = json.dumps(computed.written)
    again = Document.parse(text.encode(), "lineage.json")
    assert again == computed
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.digest == computed.digest == sha256(canonical.encode()).hexdigest()


def parts(value: Any) -> Iterator[dict]:
    """Every object of a document that metashot lays out itself."""
    yield value["metrics"]
    yield value["metrics"]["untrained"]
    yield value["metrics"]["extra"]["5w5s"]
    for name in ("training", "evaluation"):
        yield value[name]
        yield value[name]["git"]
        yield value[name]["device"]
        yield from value[name]["inputs"].values()
    yield value["origin"]
    for stage in value["stages"].values():
        yield stage
        yield from (*stage["deps"], *stage["outs"])


def test_keys_of_another_metashot_are_kept(computed: Document) -> None:
    """Its digests and signatures are over them."""
    value = deepcopy(computed.written)
    for number, part in enumerate(parts(value)):
        part["fixed_way"] = [number, {"of": None}]
    parsed = Document.of(deepcopy(value))
    assert parsed.written == value
    assert parsed.metrics.further == {"fixed_way": [0, {"of": None}]}
    assert (parsed.metrics.accuracy, parsed.weights) == (computed.metrics.accuracy, computed.weights)


def test_nothing_may_be_missing_or_of_another_type(computed: Document) -> None:
    for cls, value in {
        Metrics: computed.metrics.written,
        TrainingRecord: computed.training.written,
        Record: computed.evaluation.written,
        Document: computed.written,
    }.items():
        for key in value:
            if key in {field.name for field in fields(cls) if field.default is MISSING}:
                less = {k: v for k, v in value.items() if k != key}
                with pytest.raises(MetashotError, match=f"x is not laid out.*{key}: Field required"):
                    cls.of(less, "x")
                with pytest.raises(MetashotError, match=rf"\({key}[.:]"):
                    cls.of({**value, key: [[]]}, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(name="glyphs-9w9s"), "name: glyphs-9w9s, not glyphs-5w1s"),
        (lambda d: d["stages"].clear(), "output of train@glyphs-5w1s-matching: missing"),
        (lambda d: d.update({"ex\ntra": 1}), r"(ex\ntra: a document has no such part)"),
        (lambda d: d["metrics"].update(accuracy=True), "metrics.accuracy: Input should be a valid number"),
        (lambda d: d["metrics"].update(episodes=10.0), "metrics.episodes: Input should be a valid integer"),
        (lambda d: d["metrics"].update(accuracy=float("nan")), "metrics.accuracy: Input should be a finite"),
        (lambda d: d["training"]["git"].update(dirty=0), "training.git.dirty: Input should be a valid bool"),
        (lambda d: d["training"]["git"].update(commit="--all"), "training.git.commit"),
    ],
)
def test_what_is_not_laid_out_as_a_document_is_named(
    computed: Document, change: Callable[[dict], None], message: str
) -> None:
    value = deepcopy(computed.written)
    change(value)
    with pytest.raises(MetashotError, match=re.escape(message)) as caught:
        Document.parse(json.dumps(value).encode(), "lineage.json")
    assert "\n" not in str(caught.value)
    assert "lineage.json is not laid out as metashot writes it" in str(caught.value)


def test_stages_that_depend_on_each_other_are_no_lineage(computed: Document) -> None:
    value = deepcopy(computed.written)
    train, evaluate = (value["stages"][f"{stage}@glyphs-5w1s-matching"] for stage in ("train", "evaluate"))
    train["deps"].append(dict(evaluate["outs"][0]))
    with pytest.raises(MetashotError, match="stages: they depend on each other"):
        Document.of(value)


def test_stages_are_ordered_behind_those_they_need(computed: Document) -> None:
    order, done = computed.in_order, set[str]()
    makers = {out.path: name for name, stage in computed.stages.items() for out in stage.outs}
    assert sorted(order) == sorted(computed.stages)
    for name in order:
        assert {makers[dep.path] for dep in computed.stages[name].deps if dep.path in makers} <= done
        done.add(name)


def test_parts_are_frozen(computed: Document) -> None:
    for part in (computed, computed.metrics, computed.training, computed.evaluation, computed.origin):
        assert is_dataclass(part)
        with pytest.raises(FrozenInstanceError):
            part.further = {}  # type: ignore[misc]


def test_the_digest_of_the_stages_is_of_dvc_lock_alone(root: Path, computed: Document) -> None:
    lock = Lock(root)
    cell = lock.cell("glyphs", "5w1s", "matching")
    assert document.stages_digest(lock, cell) == computed.stages_digest


def test_a_journal_names_the_line_that_is_damaged() -> None:
    good = json.dumps({"step": 1, "time": 2.5, "metrics": {"lr": 0.1}})
    (point,) = record.points(f"{good}\n".encode(), "journal.jsonl")
    assert (point.step, point.time, point.metrics) == (1, 2.5, {"lr": 0.1})
    for damaged in ('{"step": 2}', "{", '{"step": 2, "time": 3.0, "metrics": {"lr": "high"}}'):
        with pytest.raises(MetashotError, match=r"line 2 of journal.jsonl"):
            record.points(f"{good}\n{damaged}\n".encode(), "journal.jsonl")
