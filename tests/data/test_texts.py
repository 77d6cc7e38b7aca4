"""Texts: n-grams against other implementations, tables, and serving."""

import csv
import dataclasses
import io
import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import small_models
import torch
import yaml
from project import ROOT, Project
from serving import ask, serving
from typer.testing import CliRunner

from metashot.cli.app import app
from metashot.config.pin import refresh
from metashot.data import store
from metashot.data.files import division
from metashot.data.files import tables as tables_
from metashot.data.kinds import texts
from metashot.data.preprocess import preprocess
from metashot.data.sources import text_table
from metashot.errors import MetashotError
from metashot.learning.models import methods
from metashot.learning.models.backbones.ngrams import NgramsParams
from metashot.learning.models.methods.base import Problem
from metashot.registry import predict

SHARES = division.Shares(of="classes", seed=0, val=0.25, test=0.25)
PREPARE = text_table.Prepare(length=64, words=2, shortest=3, longest=5, repeated="refuse", split=SHARES)
RAW = text_table.Raw(path="a.csv", parts=[], text="text", label="label", groups="", splits="", md5="")


# --- n-grams


def brute(text: str, words: int, shortest: int, longest: int) -> Counter[str]:
    """N-grams found by trying every pair of places, in a text of letters and spaces."""
    tokens = ["<" + token + ">" for token in text.split(" ")]
    counts = Counter(tokens)
    for first in range(len(tokens)):
        for last in range(first + 1, len(tokens)):
            if last - first < words:
                counts[" ".join(tokens[first : last + 1])] += 1
    for token in tokens:
        for start in range(len(token)):
            for end in range(start + 1, len(token) + 1):
                if shortest <= end - start <= longest and end - start < len(token):
                    counts[token[start:end]] += 1
    return counts


@pytest.mark.parametrize(("words", "shortest", "longest"), [(1, 3, 0), (1, 3, 6), (2, 2, 4), (3, 1, 1)])
def test_ngrams_are_those_of_a_brute_force_search(words: int, shortest: int, longest: int) -> None:
    draw = random.Random(0)
    for _ in range(50):
        text = " ".join(
            "".join(draw.choices("abé字", k=draw.randint(1, 7))) for _ in range(draw.randint(1, 6))
        )
        assert Counter(texts.ngrams(text, words, shortest, longest)) == brute(text, words, shortest, longest)


def crc(content: bytes) -> int:
    """CRC-32 of ISO 3309, bit by bit."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_numbers_of_ngrams_never_change() -> None:
    numbers, _ = texts.decode(b"My card, please", PREPARE.form)
    ngrams = ["<my>", "<card>", "<,>", "<please>", "<my> <card>", "<card> <,>", "<,> <please>"]
    ngrams += ["<my", "my>", "<ca", "car", "ard", "rd>", "<car", "card", "ard>", "<card", "card>"]
    assert numbers[: len(ngrams)].tolist() == [crc(ngram.encode()) >> 1 for ngram in ngrams]
    assert numbers[:2].tolist() == KNOWN
    assert (numbers.dtype, numbers.shape, np.count_nonzero(numbers)) == (np.int32, (64,), len(ngrams) + 15)


KNOWN = [1913982897, 75233884]


def test_texts_that_read_alike_are_the_same_and_no_others() -> None:
    numbers, digest = texts.decode("strasse ﬁne 12 o'clock".encode(), PREPARE.form)
    for same in (
        "Straße fine 12 O'CLOCK",
        "  STRASSE\n ﬁne\t\uff11\uff12 o'clock ",
        "strasse\u00a0fine 12 o'clock",
    ):
        again = texts.decode(same.encode(), PREPARE.form)
        assert (again[0].tolist(), again[1]) == (numbers.tolist(), digest)
    for other in ("strasse fine 12 oclock", "strassefine 12 o'clock", "strasse fine 1 2 o'clock"):
        again = texts.decode(other.encode(), PREPARE.form)
        assert again[1] != digest
        assert again[0].tolist() != numbers.tolist()


def test_of_a_long_text_the_first_ngrams_count() -> None:
    text = b"one two three four"
    whole, digest = texts.decode(text, PREPARE.form)
    form = replace(PREPARE, length=5).form
    assert texts.decode(text, form)[0].tolist() == whole[:5].tolist()
    assert texts.decode(text, form)[1] == digest


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n", "^empty$"), ("\u3000".encode(), "^empty$"), (b"caf\xe9", "utf-8")]
)
def test_other_values_than_texts_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        texts.decode(content, PREPARE.form)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "^length: 0"),
        ({"words": 0}, "^words: 0"),
        ({"shortest": 0}, "^shortest: 0"),
        ({"longest": 2}, "^longest: 2"),
    ],
)
def test_impossible_ngrams_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PREPARE, **change)


# --- tables

ROWS = [(f"text number {row} of {row // 3}", f"class {row // 3}") for row in range(36)]


def as_csv(rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([columns, *rows])
    return out.getvalue().encode()


def as_lines(rows: list[tuple[str, str]]) -> bytes:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a table."""
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_bytes(as_csv(ROWS))
    return tmp_path


def pinned(**changes: object) -> text_table.Raw:
    raw = replace(RAW, **changes)
    return replace(raw, md5=text_table.digest(raw, Path()))


def packed(raw: text_table.Raw, folder: str = "raw") -> bytes:
    Path(folder).mkdir(exist_ok=True)
    text_table.download(raw, Path(folder))
    assert [path.name for path in Path(folder).iterdir()] == ["texts"]
    return Path(folder, "texts/0000.zip").read_bytes()


def test_the_same_texts_are_the_same_bytes_in_every_file_format_and_order(here: Path) -> None:
    first = packed(pinned())
    backwards = ROWS[::-1]
    pairs = [[text, label] for text, label in backwards]
    Path("b.csv").write_bytes(b"\xef\xbb\xbf" + as_csv([(b, a) for a, b in backwards], ("label", "text")))
    Path("b.json").write_text(json.dumps(pairs))
    Path("b.jsonl").write_bytes(as_lines(backwards).replace(b"\n", b"\r\n\n"))
    Path("parts.json").write_text(json.dumps({"oos": [["x", "oos"]], "late": pairs[:9], "early": pairs[9:]}))
    Path("folder").mkdir()
    Path("folder/one.csv").write_bytes(as_csv(ROWS[:20]))
    Path("folder/two.jsonl").write_bytes(as_lines(ROWS[20:]))
    Path("folder/other.json").write_text('["no", "rows"]')
    with zipfile.ZipFile("folder.zip", "w") as file:
        for path in Path("folder").iterdir():
            file.write(path, path.name)
    for changes in (
        *({"path": "b.csv"}, {"path": "b.json"}, {"path": "b.jsonl"}),
        {"path": "parts.json", "parts": ["early", "late"]},
        {"path": "folder", "parts": ["two.jsonl", "one.csv"]},
        {"path": "folder.zip", "parts": ["one.csv", "two.jsonl"]},
        {"path": str(here / "a.csv")},
    ):
        raw = pinned(**changes)
        assert raw.md5 == pinned().md5
        assert packed(raw, "again") == first
    Path("c.csv").write_bytes(as_csv([("text", "label"), *ROWS], ("said", "intent")))
    assert pinned(path="c.csv", text="said", label="intent").md5 != pinned().md5


FRAME = pd.DataFrame(ROWS, columns=["text", "label"])
NUMBERED = FRAME.assign(label=[row // 3 for row in range(36)])
WRITTEN: dict[str, tuple[str, Callable[[pd.DataFrame, Path], object]]] = {
    "its default JSON": ("b.json", lambda frame, path: frame.to_json(path)),
    **{
        f"JSON of {orient}": ("b.json", lambda frame, path, orient=orient: frame.to_json(path, orient=orient))
        for orient in ("records", "split", "index", "table", "values")
    },
    "a dict of lists": ("b.json", lambda frame, path: path.write_text(json.dumps(frame.to_dict("list")))),
    "lines": ("b.jsonl", lambda frame, path: frame.to_json(path, orient="records", lines=True)),
    "a list called lines": ("b.jsonl", lambda frame, path: frame.to_json(path, orient="records", indent=1)),
    "lines called JSON": ("b.json", lambda frame, path: frame.to_json(path, orient="records", lines=True)),
    "CSV with the index": ("B.CSV", lambda frame, path: frame.to_csv(path)),
    "CSV of Excel": ("b.csv", lambda frame, path: frame.to_csv(path, sep=";", encoding="utf-16")),
    "CSV that names its separator": (
        "b.csv",
        lambda frame, path: path.write_text("sep=|\r\n" + frame.to_csv(sep="|", lineterminator="\r\n")),
    ),
    "CSV with a separator and an empty row at the end": (
        "b.csv",
        lambda frame, path: path.write_text(frame.to_csv(index=False, lineterminator=",\n") + ",,\n"),
    ),
    "TSV": ("b.tsv", lambda frame, path: frame.to_csv(path, sep="\t", encoding="utf-8-sig")),
    "Parquet": ("b.parquet", lambda frame, path: frame.to_parquet(path)),
    "Parquet of categories": (
        "b.parquet",
        lambda frame, path: frame.astype({"label": "category"})[::-1].to_parquet(path),
    ),
}
LABELS: dict[str, Callable[[int], object]] = {
    "whole numbers": int,
    "floats, as pandas makes of them": float,
    "fractions": lambda label: label / 4,
    "booleans": lambda label: label > 5,
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize("labels", ["texts", *LABELS])
def test_pandas_writes_the_same_data_in_every_format(here: Path, way: str, labels: str) -> None:
    frame = FRAME
    expected = [label for _, label in ROWS]
    if labels != "texts":
        frame = NUMBERED.assign(label=[LABELS[labels](label) for label in NUMBERED["label"]])
        plain = [
            int(label) if label == int(label) and labels != "booleans" else label for label in frame["label"]
        ]
        expected = list(map(str, plain))
    Path("a.csv").write_bytes(
        as_csv([(text, label) for (text, _), label in zip(ROWS, expected, strict=True)])
    )
    name, write = WRITTEN[way]
    write(frame, Path(name))
    assert pinned(path=name).md5 == pinned().md5


def test_a_text_may_be_a_book(here: Path) -> None:
    Path("a.csv").write_bytes(as_csv([("word " * 100_000, "a"), ("x", "b")]))
    sizes = [len(read()) for read in text_table.contents(RAW, Path(), tables_.Labels()).samples.values()]
    assert sorted(sizes) == [1, 500_000]


def test_labels_that_read_alike_are_one_class_and_reported(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(pinned())
    assert not capsys.readouterr().err
    digest = pinned().md5
    rows = [(text, f" {label}\u00a0" if row % 2 else label) for row, (text, label) in enumerate(ROWS)]
    Path("a.csv").write_bytes(as_csv(rows))
    packed(pinned())
    report = "a.csv: labels that read alike are one class: ' class 0\\xa0' and 'class 0' are 'class 0'"
    assert capsys.readouterr().err.startswith(report)
    assert pinned().md5 == digest
    Path("a.csv").write_bytes(as_csv([("x", "caf\u00e9"), ("y", "cafe\u0301"), ("z", "b")]))
    assert {place.split("/")[1] for place in text_table.contents(RAW, Path(), tables_.Labels()).samples} == {
        "caf\u00e9",
        "b",
    }


@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.jsonl", "s.parquet"])
def test_predict_reads_labels_as_training_does(here: Path, name: str) -> None:
    frame = pd.DataFrame({"text": ["x", "y", "z", "w"], "label": ["k1", " k1", "caf\u00e9", "cafe\u0301"]})
    write = {"s.csv": frame.to_csv, "s.parquet": frame.to_parquet, "s.tsv": partial(frame.to_csv, sep="\t")}
    write.get(name, partial(frame.to_json, orient="records", lines=True))(name)
    shown = [label for _, label in predict.labelled_texts(Path(name))]
    assert shown == ["k1", "k1", "caf\u00e9", "caf\u00e9"]
    assert [sample.value for sample in predict.texts_in(Path(name), Path(name).read_bytes())] == [*"xyzw"]


def test_a_reason_is_reported_once_with_its_count_and_three_cases(here: Path) -> None:
    rows = [*(f'"a {n}","b",more' for n in range(500)), *(f"a {n}," for n in range(500)), "x,b"]
    Path("a.csv").write_text("text,label\n" + "\n".join(rows))
    lines = text_table.contents(RAW, Path(), tables_.Labels()).mistakes
    assert list(lines) == [
        "500 rows (a.csv: line 2, a.csv: line 3, a.csv: line 4, …): more values than columns: quote "
        "values that contain a comma, and name every column",
        "500 rows (a.csv: line 502, a.csv: line 503, a.csv: line 504, …): label is empty",
    ]


def test_a_text_that_is_twice_in_a_class_counts_once(here: Path) -> None:
    first = packed(pinned())
    again = [(f" {text.upper()} ".replace(" ", "  "), label) for text, label in ROWS]
    Path("a.csv").write_bytes(as_csv([*ROWS, *ROWS[::-1]]))
    assert packed(pinned()) == first
    for rows in ([*ROWS, *again], [*again, *ROWS]):  # whichever comes first
        Path("a.csv").write_bytes(as_csv(rows))
        raw = pinned()
        packed(raw)
        assert len(text_table.items(PREPARE, Path("raw"))) == len(ROWS)
        assert raw.md5 == pinned().md5
        Path("b.csv").write_bytes(as_csv(rows[::-1]))
        assert pinned(path="b.csv").md5 == raw.md5


def test_other_texts_than_the_pinned_are_refused_until_they_are_pinned(here: Path) -> None:
    Path("dvc.yaml").touch()
    section = {"source": "text_table", "raw": dataclasses.asdict(RAW)}
    Path("params.yaml").write_text(yaml.safe_dump({"datasets": ["mine"], "data": {"mine": section}}))
    assert refresh(Path(), "mine") is True
    raw = yaml.safe_load(Path("params.yaml").read_text())["data"]["mine"]["raw"]
    assert raw == dataclasses.asdict(pinned())
    before = packed(pinned())
    Path("a.csv").write_bytes(as_csv([*ROWS, ("one more", "class 1")]))
    with pytest.raises(MetashotError, match=r"a.csv: not the files that params.yaml pins .*metashot refresh"):
        text_table.download(text_table.Raw(**raw), Path("raw"))
    assert Path("raw/texts/0000.zip").read_bytes() == before
    assert refresh(Path(), "mine") is True
    assert refresh(Path(), "mine") is False


def test_texts_are_stored_under_their_group_and_class_with_their_ngrams(here: Path) -> None:
    Path("groups.json").write_text(
        json.dumps({f"group {i}": [f"class {j}" for j in range(i, 13, 3)] for i in range(3)})
    )
    packed(pinned(groups="groups.json"))
    preprocess(text_table, PREPARE, Path("raw"), Path("out.parquet"))
    seen = []
    for split in ("train", "val", "test"):
        actual = store.load(Path("out.parquet"), split)
        assert (actual.form, actual.samples.dtype) == (PREPARE.form, np.int32)
        for class_ in actual.class_names:
            group, _, name = class_.partition("/")
            number = int(name.removeprefix("class "))
            assert (group, division.split_of(SHARES, class_)) == (f"group {number % 3}", split)
            expected = [texts.decode(text.encode(), PREPARE.form)[0] for text, label in ROWS if label == name]
            rows = actual.samples[actual.labels == actual.class_names.index(class_)]
            assert sorted(rows.tolist()) == sorted(row.tolist() for row in expected)
            seen.append(number)
    assert sorted(seen) == list(range(12))
    assert store.about(Path("out.parquet"))["classes"] == "disjoint"


def test_lists_of_groups_and_classes_divide_texts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("groups.json").write_text(
        json.dumps({f"g{i}": [f"class {j}" for j in range(i, 12, 3)] for i in range(3)})
    )
    Path("lists").mkdir()
    Path("lists/train.txt").write_text("g0\n")
    Path("lists/val.json").write_text('[["g1", "class 1"], "class 4"]')
    Path("lists/test.txt").write_text("g2")
    packed(pinned(groups="groups.json", splits="lists"))
    assert "a.csv: leaves out 6 files that no list in lists names" in capsys.readouterr().err
    items = text_table.items(replace(PREPARE, split="listed"), Path("raw"))
    places = {(item.key.split, item.key.superclass, item.key.class_) for item in items}
    assert places == {
        *(("train", "g0", f"class {j}") for j in (0, 3, 6, 9)),
        *(("val", "g1", f"class {j}") for j in (1, 4)),
        *(("test", "g2", f"class {j}") for j in (2, 5, 8, 11)),
    }
    with pytest.raises(MetashotError, match=r"raw.splits names lists, so prepare.split has to be `listed`"):
        text_table.items(PREPARE, Path("raw"))
    Path("lists/test.txt").write_text("g2\nclass 99")
    with pytest.raises(MetashotError, match=r"lists: 'class 99' has no"):
        pinned(groups="groups.json", splits="lists")


def test_a_text_in_two_splits_is_refused_or_removed(here: Path) -> None:
    home = {
        split: next(c for c in range(12) if division.split_of(SHARES, f"all/class {c}") == split)
        for split in ("train", "test")
    }
    Path("a.csv").write_bytes(
        as_csv(
            [
                *ROWS,
                ("Where  is my card?", f"class {home['train']}"),
                ("where is MY card?", f"class {home['test']}"),
            ]
        )
    )
    packed(pinned())
    with pytest.raises(MetashotError) as refusal:
        preprocess(text_table, PREPARE, Path("raw"), Path("out.parquet"))
    assert str(refusal.value) == (
        f"the text 'Where is my card?' (all/class {home['train']}, train) is the same sample as the text "
        f"'where is MY card?' (all/class {home['test']}, test): remove one of them"
    )
    preprocess(text_table, replace(PREPARE, repeated="remove"), Path("raw"), Path("out.parquet"))
    assert store.about(Path("out.parquet"))["removed"] == 1
    sizes = {split: len(store.load(Path("out.parquet"), split).samples) for split in ("train", "val", "test")}
    assert sum(sizes.values()) == len(ROWS) + 1
    assert sizes["test"] % 3 == 1


def test_a_label_with_one_text_is_one_line(here: Path) -> None:
    Path("a.csv").write_bytes(as_csv([*ROWS, ("alone", "lonely")]))
    packed(pinned())
    with pytest.raises(MetashotError, match=r"^raw: class all/lonely has one sample in (train|val|test)"):
        preprocess(text_table, PREPARE, Path("raw"), Path("out.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b"", "a.csv: has no column names: its first line has to hold them"),
        ("a.csv", b'"text" "label"\n"a" "b"\n', "a.csv: line 1: cannot be read ("),
        ("a.csv", b"# of 2026\ntext,label\na,b\n", "a.csv: begins with #: remove comments"),
        ("a.csv", b"text,label\n", "a.csv: has no rows"),
        ("a.csv", b"words,label\na,b\n", "a.csv: no column 'text' (there are words, label)"),
        ("a.csv", b"text,label,label\na,b,c\n", "a.csv: more than one column 'label'"),
        ("a.csv", b"text,label\na,b\nc, d, e\n", "a.csv: line 3: more values than columns"),
        ("a.csv", b"text,label\na,b\nc\n", "a.csv: line 3: label is empty"),
        ("a.csv", b"text,label\n,b\n", "a.csv: line 2: text is empty"),
        ("a.csv", b'text,label\n" ",b\n', "a.csv: line 2: text is empty"),
        ("a.csv", b'text,label\n"a,b\n', "a.csv: line 2: cannot be read (unexpected end of data): close"),
        ("a.csv", b"text,label\ncaf\xe9,b\n", "a.csv: byte 14 is not UTF-8"),
        (
            "a.csv",
            "text,label\na,b\n".encode("utf-16-le"),
            "a.csv: has NUL characters: save the file as UTF-8",
        ),
        ("a.csv", "text,label\na,b\n".encode("utf-16")[:-1], "a.csv: byte 30 is not UTF-16, as its first"),
        ("a.tsv", b"text\tlabel\na\tb\tc\n", "a.tsv: line 2: more values than columns: quote values that"),
        ("a.parquet", b"PAR1", "a.parquet: cannot be read ("),
        ("a.csv", b"text,label\na,b/c\n", "a.csv: line 2: 'b/c' cannot name a class"),
        ("a.csv", b"text,label\na,.b\n", "a.csv: line 2: '.b' cannot name a class"),
        ("a.csv", b"text,label\na,b\x07\n", "a.csv: the class 'all/b\\x07' has unprintable characters"),
        ("a.csv", b"text,label\na,b\nc,B\n", "a.csv: the classes 'all/B' and 'all/b' differ in nothing but"),
        ("a.json", b"[1", "a.json: cannot be read ("),
        ("a.json", b"[" * 100_000, "a.json: cannot be read ("),
        ("a.json", b"3", "a.json: is not a list of rows"),
        ("a.json", b'{"a": 3}', "a.json: a: is not a list of rows"),
        ("a.json", b"[3]", "a.json: row 0: give an object with text and label"),
        ("a.json", b'[["a"]]', "a.json: row 0: give an object with text and label"),
        ("a.json", b'["a"]', "a.json: row 0: give an object with text and label"),
        ("a.json", b'{"a": [{"text": "b"}]}', "a.json: a: row 0: label is empty"),
        ("a.json", b'[["a", [1]]]', "a.json: row 0: label is [1]: give a text or a number"),
        ("a.json", b'[["a", NaN]]', "a.json: row 0: label is empty"),
        ("a.json", b'[[1.5, "a"]]', "a.json: row 0: text is 1.5: give a text"),
        ("a.json", b'[["\\ud800", "b"]]', "a.json: row 0: text has half of a surrogate pair"),
        ("a.jsonl", b'["a", "b"]\n{"text"\n', "a.jsonl: line 2: is not JSON ("),
    ],
)
def test_a_mistake_in_a_file_is_one_line(here: Path, name: str, content: bytes, line: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(MetashotError) as refusal:
        text_table.digest(replace(RAW, path=name), Path())
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"path": "gone.csv"}, "raw.path: gone.csv: no such"),
        ({"path": "empty"}, "raw.path: empty: no CSV, TSV, JSON, JSON Lines or Parquet file in it"),
        ({"path": "a.xlsx"}, "a.xlsx: spreadsheets cannot be read: save it as CSV in UTF-8"),
        ({"path": "a.csv.gz"}, "a.csv.gz: compressed, but not as zip: unpack it, or pack it as zip"),
        ({"path": "a.txt"}, "a.txt: neither a zip file nor a file with a known suffix (.csv, .json"),
        ({"path": "tables", "parts": ["b.csv"]}, "raw.parts: no file 'b.csv' in tables (there are a.csv)"),
        ({"path": "a.json", "parts": ["test"]}, "a.json: no part 'test' (there are train)"),
        ({"groups": "gone.json"}, "gone.json: not a JSON object of superclasses and lists of their classes"),
        ({"groups": "list.json"}, "list.json: not a JSON object of superclasses and lists"),
        (
            {"groups": "some.json"},
            "33 rows (a.csv: line 5: label 'class 1', a.csv: line 6: label 'class 1', ",
        ),
        ({"groups": "both.json"}, "both.json: 'class 0' is in 'a' and in 'b'"),
        ({"splits": "empty"}, "empty: no list of split train"),
    ],
)
def test_a_mistake_in_raw_is_one_line(here: Path, changes: dict, line: str) -> None:
    Path("empty").mkdir()
    Path("tables").mkdir()
    Path("tables/a.csv").write_bytes(as_csv(ROWS))
    Path("a.json").write_text(json.dumps({"train": ROWS}))
    for name in ("a.xlsx", "a.csv.gz", "a.txt"):
        Path(name).write_bytes(b"PK\3\4")
    Path("list.json").write_text("[3]")
    Path("some.json").write_text('{"a": ["class 0"]}')
    Path("both.json").write_text('{"a": ["class 0"], "b": ["class 0"]}')
    with pytest.raises(MetashotError) as refusal:
        text_table.digest(replace(RAW, **changes), Path())
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


# --- published data

PUBLISHED = {  # texts a class, at least; classes; and what is removed, as it is in two splits
    "clinc150": (149, 150, 22_500),
    "banking77": (75, 77, 13_083),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_texts_are_those_that_params_yaml_pins(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    least, n_classes, n_texts = PUBLISHED[name]
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["data"][name]
    raw = section["raw"]
    for key in ("path", "groups"):
        raw[key] = raw[key] and str(shared_data / raw[key].removeprefix("../"))
    text_table.download(text_table.Raw(**raw), tmp_path)
    shares = division.Shares(**section["prepare"].pop("split"))
    prepare = text_table.Prepare(**section["prepare"], split=shares)
    items = text_table.items(prepare, tmp_path)
    counts = Counter(item.key.path for item in items)
    assert (len(counts), min(counts.values()) >= least) == (n_classes, True)
    assert n_texts - 70 < len(items) <= n_texts  # a few are there twice
    preprocess(text_table, prepare, tmp_path, tmp_path / "out.parquet")
    sizes = [len(store.load(tmp_path / "out.parquet", split).samples) for split in ("train", "val", "test")]
    assert sum(sizes) + store.about(tmp_path / "out.parquet")["removed"] == len(items)


def test_clinc150_has_few_texts_under_two_labels(shared_data: Path) -> None:
    content = json.loads((shared_data / "clinc150/data_full.json").read_text())
    labels: dict[str, set[str]] = {}
    for part in ("train", "val", "test"):
        for text, label in content[part]:
            labels.setdefault(texts.normalised(text), set()).add(label)
    assert sum(len(parts) > 1 for parts in labels.values()) == 4


# --- models at work

GROUP = "mine-5w1s"
OPENINGS = (
    "please",
    "I want to",
    "how do I",
    "can you",
    "tell me how to",
    "help me",
    "I need to",
    "could we",
)
TAILS = ("now", "today", "for me", "again", "this week", "at once", "if you can", "thanks")
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "si", "to", "vu", "ze")


def intents(classes: int, samples: int) -> list[tuple[str, str]]:
    """Synthetic requests: each class has two words of its own, and each text one or both of them."""
    draw = random.Random(0)
    words = iter(
        draw.sample([a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES], 2 * classes)
    )
    rows = []
    for _ in range(classes):
        verb, noun = next(words), next(words)
        for _ in range(samples):
            about = draw.choice((f"{verb} it", f"{verb} the {noun}s", f"{noun}", f"my {noun}, {verb}ing"))
            rows.append(
                (
                    f"{draw.choice(OPENINGS)} {about} {draw.choice(TAILS)} {draw.randint(1, 99)}",
                    f"{verb}_{noun}",
                )
            )
    return rows


DATASET = "mine"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict]:
    """Requests, trained through the stages, and the metrics of each method."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "requests.csv").write_bytes(as_csv(intents(70, 24)))
    project = Project(folder / "project")
    with project.params() as params:
        section = params["data"]["mine"] = params["data"]["clinc150"]
        raw = replace(RAW, path=str(folder / "requests.csv"))
        section["raw"] = dataclasses.asdict(replace(raw, md5=text_table.digest(raw, Path())))
        section["prepare"] |= {"length": 96}
        section["backbone"] |= {"width": 64, "buckets": 2048}
        section["budget"] = {"prototypical": 60, "maml": 40}
        params["datasets"] = ["mine"]
        params["setting"]["5w1s"] |= {"train_way": 20, "train_episodes": 200, "extra": {}}
    return project, project.make(DATASET)


@pytest.mark.slow
def test_methods_learn_to_tell_unseen_intents_apart(trained: tuple[Project, dict]) -> None:
    for measured in trained[1].values():
        assert measured["accuracy"] - measured["ci95"] > 2 * 0.2  # chance
    better = trained[1]["prototypical"]
    assert better["accuracy"] > better["untrained"]["accuracy"] + 0.05


@pytest.fixture(scope="module")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models that have random weights; see `published`."""
    root = tmp_path_factory.mktemp("models")
    network = NgramsParams(name="ngrams", buckets=50, width=6, drop_rate=0.0)
    problem = Problem(replace(PREPARE, length=20).form, network, train_classes=20)
    for method in ("prototypical", "maml"):
        folder = root / f"models/{GROUP}/{method}"
        folder.mkdir(parents=True)
        methods.save(small_models.build(method, problem), folder)
    return root


@pytest.fixture(scope="module")
def task() -> list[tuple[str, str]]:
    """Five classes: a support text of each, and three queries."""
    by_class: dict[str, list[str]] = {}
    for text, label in intents(5, 4):
        by_class.setdefault(label, []).append(text)
    return [(by_class[name][number], name) for number in range(4) for name in by_class]


def asked(task: list[tuple[str, str]]) -> list[tuple[str, str | None]]:
    return [(text, label if row < 5 else None) for row, (text, label) in enumerate(task)]


@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_served_answers_are_direct_ones(
    published: tuple, model_root: Path, task: list, method: str, tmp_path: Path
) -> None:
    root, versions = published
    columns, rows = ("text", "label"), asked(task)
    plain = mlflow.pyfunc.load_model(versions[method].source)
    answer = ask(plain, rows, columns)
    direct = methods.load(model_root / f"models/{GROUP}/{method}")
    form = direct.problem.form
    samples = torch.from_numpy(np.stack([texts.decode(text.encode(), form)[0] for text, _ in task]))[None]
    with torch.no_grad():
        truth = direct.predict(samples[:, :5], torch.arange(5)[None], samples[:, 5:], 5)[0].numpy()
    shown = [[row["probabilities"][label] for _, label in task[:5]] for row in answer]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)
    if method == "prototypical":
        with serving(root, {method: f"models:/{GROUP}/{versions[method].version}"}, tmp_path) as addresses:
            assert ask(addresses[method], rows, columns) == answer
            for value, message in ((" ", "empty"), (None, "null: give a text"), (3, "int: give a text")):
                line = f"row 20: text is {message}"
                assert ask(addresses[method], [*rows, (value, None)], columns) == line
                assert ask(plain, [*rows, (value, None)], columns) == line
        assert (
            ask(plain, rows, ("image", "label")) == "unknown column 'image': the table has `text` and `label`"
        )


@pytest.fixture
def tables(task: list, tmp_path: Path) -> Path:
    """The task as files: a table of supports, and queries as lines and as a table."""
    (tmp_path / "support.csv").write_bytes(as_csv(task[:5]))
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked/a.txt").write_text("".join(f"{text}\n\n" for text, _ in task[5:12]))
    (tmp_path / "asked/b.jsonl").write_bytes(as_lines(task[12:]))
    return tmp_path


def test_predict_answers_about_lines_and_tables(
    published: tuple, task: list, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, versions = published
    monkeypatch.chdir(root)
    command = ["predict", GROUP, str(tables / "asked"), "--support", str(tables / "support.csv")]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    answers = json.loads(done.stdout)
    assert [answer["sample"] for answer in answers] == [text for text, _ in task[5:]]
    champion = mlflow.pyfunc.load_model(versions["prototypical"].source)
    expected = champion.predict(pd.DataFrame(asked(task), columns=["text", "label"]))
    assert [answer["label"] for answer in answers] == expected["label"].tolist()
    for answer, probabilities in zip(answers, expected["probabilities"], strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, rel=1e-6)


@pytest.mark.parametrize(
    ("spoil", "more", "line"),
    [
        (
            lambda f: None,
            ["--picture", "out.png"],
            "--picture: draws pictures, and mine-5w1s/1 takes text files",
        ),
        (lambda f: (f / "asked/c.txt").write_bytes(b"\xff"), [], "asked/c.txt: byte 0 is not UTF-8"),
        (lambda f: (f / "asked/c.txt").write_text("\n"), [], "asked/c.txt: has no rows"),
        (
            lambda f: (f / "asked/c.csv").write_text("a\nb\n"),
            [],
            "asked/c.csv: no column 'text' (there are a)",
        ),
        (lambda f: (f / "support.csv").write_text("text\nb\n"), [], "support.csv: no column 'label'"),
        (
            lambda f: (f / "support.csv").unlink(),
            [],
            "support.csv is not there",
        ),
        (lambda f: (f / "support.csv").write_text("text,label\na,b\n"), [], "every labelled row says 'b'"),
    ],
)
def test_a_mistake_in_a_prediction_is_one_line(
    published: tuple,
    tables: Path,
    spoil: Callable[[Path], object],
    more: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(published[0])
    spoil(tables)
    command = ["predict", GROUP, str(tables / "asked"), "--support", str(tables / "support.csv"), *more]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert line in done.stderr


def test_predict_wants_a_table_to_learn_texts_from(
    published: tuple, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published[0])
    done = CliRunner().invoke(app, ["predict", GROUP, str(tables), "--support", str(tables)])
    assert done.exit_code == 1
    assert (
        "is not a table of texts: give the support set as CSV, TSV, JSON, JSON Lines or Parquet"
        in done.stderr
    )


def test_the_card_of_a_version_shows_a_request_with_texts(published: tuple, task: list) -> None:
    root, versions = published
    description = versions["prototypical"].description
    assert '"text": [a, b, unknown]' in description
    assert "ictures" not in description
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    assert '"text": [a, b, unknown]' in mlflow.MlflowClient(uri, uri).get_registered_model(GROUP).description


def test_files_of_texts_that_a_model_takes_are_those_that_preprocessing_reads() -> None:
    assert texts.USE.suffixes == text_table.SUFFIXES | {".txt"}
    assert set(texts.USE.formats.split(", ")) == {suffix.removeprefix(".") for suffix in texts.USE.suffixes}
