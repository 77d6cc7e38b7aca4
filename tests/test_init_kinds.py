"""`metashot init` on sounds, texts and series: found out, written, and taken by the stages."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from ruamel.yaml import YAML
from typer.testing import CliRunner

from benchmarks import toys
from metashot import cli, params
from metashot.data import audio_folder, series_table, source, store, text_table
from metashot.data.preprocess import preprocess
from tests import synthetic

SHIPPED = (synthetic.ROOT / "params.yaml").read_text()
SHARED = synthetic.ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(SHIPPED)
    return tmp_path


def init(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["init", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


def described(name: str) -> dict:
    section: dict = YAML(typ="safe").load(Path("params.yaml").read_text())["data"][name]
    return section


def prepared(name: str) -> tuple[store.SampleSet, ...]:
    """The three splits, as the stages make them of what was written."""
    path = Path("params.yaml")
    params.check(path)
    module = source.source(described(name)["source"])
    raw = params.read(path, f"data.{name}.raw", module.Raw)
    assert module.digest(raw, Path()) == raw.md5
    Path("raw").mkdir()
    module.download(raw, Path("raw"))
    preprocess(
        module, params.read(path, f"data.{name}.prepare", module.Prepare), Path("raw"), Path("data.parquet")
    )
    return tuple(store.load(Path("data.parquet"), split) for split in ("train", "val", "test"))


def sounds(classes: int = 16, each: int = 6) -> None:
    for number in range(classes * each):
        toys.write_sound(
            Path(f"sounds/class{number // each:02d}/{number % each}.wav"), number // each, number % each
        )


def test_sounds_are_found_out_and_taken() -> None:
    sounds()
    said = init("sounds")
    durations = [soundfile.info(path).duration for path in Path("sounds").rglob("*.wav")]
    assert "classes 16" in said
    assert "sounds 96" in said
    assert f"seconds {min(durations):.2f} to {max(durations):.2f}, median {np.median(durations):.2f}" in said
    section = described("sounds")
    assert section["source"] == "audio_folder"
    assert section["prepare"]["seconds"] == np.ceil(10 * np.quantile(durations, 0.95)) / 10
    splits = prepared("sounds")
    assert sum(len(split.labels) for split in splits) == 96
    assert sum(len(split.class_names) for split in splits) == 16
    assert min(splits[0].form.shape[1:]) >= 16
    # again, after a person has changed what init does not find out
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("mels: 40", "mels: 32"))
    toys.write_sound(Path("sounds/class00/new.wav"), 0, 99)
    init("sounds")
    assert described("sounds")["prepare"]["mels"] == 32
    assert described("sounds")["raw"]["md5"] != section["raw"]["md5"]


def test_every_mistake_in_sounds_is_named_and_nothing_is_written() -> None:
    sounds()
    content = Path("sounds/class03/1.wav").read_bytes()
    Path("sounds/class03/1.wav").write_bytes(content[: len(content) // 2])
    Path("sounds/class04/1.wav").write_text("no sound")
    soundfile.write("sounds/class05/1.wav", np.zeros(80), 16000)
    soundfile.write("sounds/class06/1.wav", np.zeros(16000), 16000)
    said = init("sounds", code=1)
    assert "'class03/1.wav' is cut off" in said
    assert "'class04/1.wav' is not a readable sound" in said
    assert "'class05/1.wav' is too short: 5 ms are less than a window of 40" in said
    assert "warning: silent: 1 sounds ('class06/1.wav')" in said
    assert Path("params.yaml").read_text() == SHIPPED


def put_lists(classes: list[str]) -> None:
    """Classes in turn for training, validation and test."""
    Path("lists").mkdir()
    for at, split in enumerate(("train", "val", "test")):
        Path(f"lists/{split}.txt").write_text("".join(f"{class_}\n" for class_ in classes[at::3]))


def test_lists_of_splits_divide_sounds() -> None:
    sounds(18)
    classes = [f"class{number:02d}" for number in range(18)]
    put_lists(classes[:-1])
    said = init("sounds", "--splits", "lists")
    assert "left out 6 files that no list of splits names" in said
    assert "split by lists: 6 / 6 / 5 classes" in said
    assert (described("sounds")["raw"]["splits"], described("sounds")["prepare"]["split"]) == (
        "lists",
        "listed",
    )
    assert [len(split.class_names) for split in prepared("sounds")] == [6, 6, 5]


def test_lists_of_splits_divide_texts_in_a_folder() -> None:
    as_csv(Path("texts/requests.csv"), requests(18), ("text", "label"))
    put_lists([f"intent{number:02d}" for number in range(18)])
    assert "split by lists: 6 / 6 / 6 classes" in init("texts", "--splits", "lists")
    assert [len(split.class_names) for split in prepared("texts")] == [6, 6, 6]


def test_flat_sounds_are_one_line_with_the_way_out() -> None:
    sounds(4)
    for path in list(Path("sounds").rglob("*.wav")):
        path.rename(Path("sounds", f"{path.parent.name}_{path.name}"))
    said = init("sounds", code=1)
    assert said.count("error: ") == 1
    assert "24 files ('class00_0.wav', 'class00_1.wav', 'class00_2.wav', …)" in said
    assert "--label '^(?P<label>[^_]+)_'" in said
    assert "classes 4" in init("sounds", "--label", "^(?P<label>[^_]+)_")


def test_a_sound_that_is_there_twice_is_told() -> None:
    sounds()
    shutil.copy("sounds/class03/1.wav", "sounds/class03/again.wav")
    shutil.copy("sounds/class04/1.wav", "sounds/class05/again.wav")
    said = init("sounds")
    assert "duplicates 1 within a class, 1 across classes" in said


def requests(classes: int = 20, each: int = 12) -> list[tuple[str, str]]:
    return [
        (f"say {c} the {i}th of {c * i} words", f"intent{c:02d}") for c in range(classes) for i in range(each)
    ]


def as_csv(path: Path, rows: list, columns: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.mark.parametrize("columns", [("text", "label"), ("Utterance", "Intent"), ("query", "kind")])
def test_texts_are_found_out_and_taken(columns: tuple[str, str]) -> None:
    rows = requests()
    as_csv(Path("texts/requests.csv"), [*rows, (rows[0][0].upper(), rows[0][1])], columns)
    said = init("texts")
    assert f"columns {columns[0]} and {columns[1]}" in said
    assert "classes 20" in said
    assert "texts 240" in said
    assert "repeated 1 rows are in their class already" in said
    section = described("texts")
    assert (section["source"], section["raw"]["text"], section["raw"]["label"]) == ("text_table", *columns)
    splits = prepared("texts")
    assert sum(len(split.labels) for split in splits) == 240
    assert sum(len(split.class_names) for split in splits) == 20
    # the division that was told is the one that is made
    shown = " / ".join(str(len(split.class_names)) for split in splits)
    assert f"{shown} classes for training / validation / test" in said


def test_json_of_pairs_in_parts_and_lists_of_what_was_found() -> None:
    rows = requests()
    parts = {"train": rows[::2], "more": rows[1::2]}
    Path("all.json").write_text(json.dumps(parts))
    said = init("all.json", "--name", "pairs")
    assert "rows 120 in all.json: train, 120 in all.json: more" in said
    assert described("pairs")["raw"]["parts"] == []
    # parts that a person leaves out stay out
    text = Path("params.yaml").read_text()
    before, after = text.split("  pairs:", 1)
    Path("params.yaml").write_text(f"{before}  pairs:{after.replace('parts: []', 'parts: [train]', 1)}")
    said = init("all.json", "--name", "pairs")
    assert "texts 120" in said
    assert described("pairs")["raw"]["parts"] == ["train"]
    assert sum(len(split.labels) for split in prepared("pairs")) == 120


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "a,b,c\nx,y,z\n",
            "which columns are texts and labels? (there are a, b, c): name them text and label",
        ),
        ("text,label\nx,\n", "line 2: label is empty"),
        ("text,label\nx,y\n", "classes: 1; an episode needs at least two"),
        ("text,label\n", "has no rows"),
    ],
)
def test_a_mistake_in_texts_is_named_and_nothing_is_written(content: str, line: str) -> None:
    Path("some.csv").write_text(content)
    assert line in init("some.csv", code=1)
    assert Path("params.yaml").read_text() == SHIPPED


def test_every_mistake_in_tables_of_texts_is_named() -> None:
    folder = Path("many")
    folder.mkdir()
    good = "".join(f"text {n},class{n % 3}\n" for n in range(60))
    (folder / "a.csv").write_text(f"text,label\n{good},class0\nx,\ny,a/b\nz,class1,more\nq,Class2\n")
    (folder / "b.jsonl").write_text(
        '{"text": "k", "label": "class0"}\nno json\n{"text": 1.5, "label": "class0"}\n'
    )
    (folder / "c.json").write_text("[")
    (folder / "d.csv").write_text("text,other\nx,y\n")
    said = init("many", code=1)
    for line in (
        "many/a.csv: line 62: text is empty",
        "many/a.csv: line 63: label is empty",
        "many/a.csv: line 64: 'a/b' is no name of a class",
        "many/a.csv: line 65: more values than columns",
        "the classes 'all/Class2' and 'all/class2' differ in nothing but case",
        "many/b.jsonl: line 2: is not JSON",
        "many/b.jsonl: line 3: text is 1.5",
        "many/c.json: cannot be read",
        "many/d.csv: no column 'label'",
    ):
        assert said.count(line) == 1, line
    assert Path("params.yaml").read_text() == SHIPPED


def test_every_mistake_in_tables_of_series_is_named() -> None:
    rows = [
        {"id": f"{c}-{i}", "label": f"class{c}", "time": t, "v": float(t)}
        for c in range(4)
        for i in range(8)
        for t in range(20)
    ]
    rows[7] |= {"label": "other"}
    rows[27] |= {"time": 8}
    Path("many").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), "many/a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[-20:]), "many/b.parquet")
    Path("many/c.csv").write_text("id,label,time,w\nx,y,1,2\n")
    said = init("many", code=1)
    for line in (
        "series '0-0' has more than one label: 'class0' and 'other'",
        "series '0-1' has two rows at one time",
        "'b.parquet': series '3-7' is also in many: 'a.parquet'",
        "'c.csv': no column 'v'",
    ):
        assert said.count(line) == 1, line


def test_texts_in_two_splits_are_told_by_their_words() -> None:
    rows = requests()
    as_csv(
        Path("some.csv"),
        [*rows, *(("the very same", f"intent{c:02d}") for c in range(20))],
        ("text", "label"),
    )
    said = init("some.csv")
    assert "'the very same' = 'the very same'" in said
    assert described("some")["prepare"]["repeated"] == "remove"


def test_series_are_found_out_and_taken(tmp_path: Path) -> None:
    toys.write_series(Path("waves.csv"), 18, 8)
    with Path("waves.csv").open() as file:
        lengths = Counter(row["id"] for row in csv.DictReader(file))
    said = init("waves.csv", "--name", "waves")
    assert "channels x, y, z" in said
    assert "classes 18" in said
    assert f"steps {min(lengths.values())} to {max(lengths.values())}" in said
    section = described("waves")
    assert (section["source"], section["prepare"]["channels"]) == ("series_table", ["x", "y", "z"])
    assert section["prepare"]["length"] == round(np.median(list(lengths.values())))
    splits = prepared("waves")
    assert sum(len(split.labels) for split in splits) == 18 * 8
    assert sum(len(split.class_names) for split in splits) == 18


def test_series_in_parquet_that_name_their_splits_are_left_in_them() -> None:
    rows = [
        {
            "id": f"{c}-{i}",
            "label": f"class{c}",
            "split": ("train", "val", "test")[c % 3],
            "v": float(c * t + i),
        }
        for c in range(9)
        for i in range(8)
        for t in range(20)
    ]
    Path("folder").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), "folder/table.parquet")
    said = init("folder")
    assert "by lists: 3 / 3 / 3 classes" in said
    assert described("folder")["prepare"]["split"] == "listed"
    assert [len(split.class_names) for split in prepared("folder")] == [3, 3, 3]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        ({"label": "other"}, "has more than one label"),
        ({"v": float("nan")}, "without a finite number in channel 'v'"),
    ],
)
def test_a_mistake_in_series_is_named_and_nothing_is_written(spoil: dict, line: str) -> None:
    rows = [
        {"id": f"{c}-{i}", "label": f"class{c}", "v": float(t)}
        for c in range(4)
        for i in range(8)
        for t in range(20)
    ]
    rows[7] |= spoil
    pq.write_table(pa.Table.from_pylist(rows), "table.parquet")
    assert line in init("table.parquet", code=1)
    assert Path("params.yaml").read_text() == SHIPPED


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_published_texts() -> None:
    said = init(str(SHARED / "clinc150/data_full.json"), "--name", "intents")
    assert "classes 151" in said  # with what is out of scope, which is a part of its own
    assert "100 in" in said
    assert "1,000 in" in said
    with (SHARED / "banking77/train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    Path("bank").mkdir()
    shutil.copy(SHARED / "banking77/train.csv", "bank")
    said = init("bank")
    assert f"classes {len({row['category'] for row in rows})}" in said
    assert f"{len(rows):,} in bank/train.csv" in said


def test_kinds_are_those_of_the_sources() -> None:
    from metashot.kinds import OF_SOURCE

    assert {audio_folder, series_table, text_table} <= {source.source(name) for name in OF_SOURCE}
