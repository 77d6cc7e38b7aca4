"""`metashot init` on sounds, texts and series: detected, written, and prepared by the stages."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onboarding
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from onboarding import SHIPPED, described
from project import ROOT

from benchmarks import toys
from metashot.config import check, params
from metashot.data import sources, store
from metashot.data.files import division, folders
from metashot.data.preprocess import preprocess
from metashot.data.sources import audio_folder, series_table, text_table
from metashot.errors import MetashotError
from metashot.onboard import inspect, inspectors

SHARED = ROOT.parent / "shared" / "data"


def init(*arguments: str, code: int = 0) -> str:
    """Output of `metashot init`, on one line."""
    return " ".join(onboarding.init(*arguments, code=code).split())


def prepared(name: str) -> tuple[store.SampleSet, ...]:
    """The three splits that the stages prepare from the written section."""
    path = Path("params.yaml")
    check.check(path)
    module = sources.SOURCES[described(name)["source"]]
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


def test_sounds_are_detected_and_prepared() -> None:
    sounds()
    output = init("sounds")
    durations = [soundfile.info(path).duration for path in Path("sounds").rglob("*.wav")]
    assert "classes 16" in output
    assert "sounds 96" in output
    assert (
        f"seconds {min(durations):.2f} to {max(durations):.2f}, median {np.median(durations):.2f}" in output
    )
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
    output = init("sounds", code=1)
    assert "'class03/1.wav' is cut off" in output
    assert "'class04/1.wav' is not a readable sound" in output
    assert "'class05/1.wav' is too short: 5 ms are less than a window of 40" in output
    assert "warning: silent: 1 sounds ('class06/1.wav')" in output
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
    output = init("sounds", "--splits", "lists")
    assert "left out 6 files that no list of splits names" in output
    assert "split by lists: 6 / 6 / 5 classes" in output
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
    output = init("sounds", code=1)
    assert output.count("error: ") == 1
    assert "24 files ('class00_0.wav', 'class00_1.wav', 'class00_2.wav', …)" in output
    assert "--label '^(?P<label>[^_]+)_'" in output
    assert "classes 4" in init("sounds", "--label", "^(?P<label>[^_]+)_")


def test_duplicate_sounds_are_reported() -> None:
    sounds()
    shutil.copy("sounds/class03/1.wav", "sounds/class03/again.wav")
    shutil.copy("sounds/class04/1.wav", "sounds/class05/again.wav")
    output = init("sounds")
    assert "duplicates 1 within a class, 1 across classes" in output


def requests(classes: int = 20, each: int = 12) -> list[tuple[str, str]]:
    return [
        (f"say {c} the {i}th of {c * i} words", f"intent{c:02d}") for c in range(classes) for i in range(each)
    ]


def as_csv(path: Path, rows: list, columns: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.mark.parametrize("columns", [("text", "label"), ("Utterance", "Intent"), ("query", "kind")])
def test_texts_are_detected_and_prepared(columns: tuple[str, str]) -> None:
    rows = requests()
    as_csv(Path("texts/requests.csv"), [*rows, (rows[0][0].upper(), rows[0][1])], columns)
    output = init("texts")
    assert f"columns {columns[0]} and {columns[1]}" in output
    assert "classes 20" in output
    assert "texts 240" in output
    assert "repeated 1 rows repeat a text of their class" in output
    section = described("texts")
    assert (section["source"], section["raw"]["text"], section["raw"]["label"]) == ("text_table", *columns)
    splits = prepared("texts")
    assert sum(len(split.labels) for split in splits) == 240
    assert sum(len(split.class_names) for split in splits) == 20
    # the division that was told is the one that is made
    shown = " / ".join(str(len(split.class_names)) for split in splits)
    assert f"{shown} classes for training / validation / test" in output


def test_json_of_pairs_in_parts() -> None:
    rows = requests()
    parts = {"train": rows[::2], "more": rows[1::2]}
    Path("all.json").write_text(json.dumps(parts))
    output = init("all.json", "--name", "pairs")
    assert "rows 120 in all.json: train, 120 in all.json: more" in output
    assert described("pairs")["raw"]["parts"] == []
    # parts that a person leaves out stay out
    text = Path("params.yaml").read_text()
    before, after = text.split("  pairs:", 1)
    Path("params.yaml").write_text(f"{before}  pairs:{after.replace('parts: []', 'parts: [train]', 1)}")
    output = init("all.json", "--name", "pairs")
    assert "texts 120" in output
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
    output = init("many", code=1)
    for line in (
        "many/a.csv: line 62: text is empty",
        "many/a.csv: line 63: label is empty",
        "many/a.csv: line 64: 'a/b' cannot name a class",
        "many/a.csv: line 65: more values than columns",
        "the classes 'all/Class2' and 'all/class2' differ in nothing but case",
        "many/b.jsonl: line 2: is not JSON",
        "many/b.jsonl: line 3: text is 1.5",
        "many/c.json: cannot be read",
        "many/d.csv: no column 'label'",
    ):
        assert output.count(line) == 1, line
    assert Path("params.yaml").read_text() == SHIPPED


def test_remarks_on_data_are_one_line_each_whatever_is_in_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sounds(18)
    Path("sounds/class00/a.\x1b[31mred").touch()
    init("sounds")
    capsys.readouterr()
    prepared("sounds")
    assert capsys.readouterr().err.startswith("sounds: ignores 1 files of other kinds (1 .\\x1b[31mred)\n")


def test_a_mistake_in_many_columns_and_tables_is_reported_once() -> None:
    numbers = np.random.default_rng(0).normal(size=(96, 40))
    table = pd.DataFrame(numbers, columns=[f"f{number}" for number in range(40)])
    table.insert(0, "label", np.repeat(range(16), 6))
    table.insert(0, "id", np.repeat(range(48), 2))
    Path("many").mkdir()
    for id_, rows in table.groupby("id"):
        rows.to_csv(f"many/{id_}.csv", sep=";", decimal=",", index=False)
    output = init("many", code=1)
    assert output.count("are not numbers: write decimals with a point") == 1
    assert "1,920 columns (many/0.csv: column 'f0': 2 values ('0,1257" in output
    assert len(output) < 1000


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("{word},k,{word},1", "4 columns (many/one.csv: column 'split': 'one', many/six.csv: column"),
        ("{word},k,train,1\n{word} ,k,train,2", "4 columns (many/one.csv: ids that read alike: 'one ' and"),
    ],
)
def test_a_reason_is_reported_once_for_many_tables(row: str, line: str) -> None:
    Path("many").mkdir()
    for word in ("one", "two", "ten", "six"):
        Path("many", f"{word}.csv").write_text(f"id,label,split,x\n{row.format(word=word)}\n")
    output = init("many", code=1)
    assert output.count("error: ") == 1
    assert line in output


def test_rows_of_many_tables_are_one_number() -> None:
    Path("many").mkdir()
    for number in range(40):
        lines = "".join(f"text {number} {row},c{number % 20}\n" for row in range(6))
        Path("many", f"{number}.csv").write_text(f'text,label\n{lines}"open')
    output = init("many", code=1)
    assert "rows 240 in 40 files or parts" in output
    assert output.count("close quotation marks") == 1
    assert len(output) < 1000


def test_a_sample_with_very_many_duplicates_is_one_short_line() -> None:
    sounds(18)
    for number in range(200):
        for class_ in ("class03", "class04"):
            shutil.copy("sounds/class05/1.wav", f"sounds/{class_}/again{number}.wav")
    output = init("sounds")
    assert (
        "the same sample in several classes: 1 ('class03/again0.wav' = 'class04/again0.wav' = "
        "'class05/1.wav' = 398 more)"
    ) in output
    assert len(output) < 3000


def test_formats_that_are_not_read_are_one_line_with_those_that_are() -> None:
    for number in range(6):
        folder = Path("songs", f"c{number}")
        folder.mkdir(parents=True)
        for name in ("a.ogg", "b.mp3"):
            (folder / name).write_bytes(b"x")
    output = init("songs", code=1)
    assert output.startswith("error: songs: only 12 files of other kinds (6 .mp3, 6 .ogg), none of them data")
    assert "sounds as WAV or FLAC" in output
    assert "pictures in" not in output


def test_only_the_most_frequent_suffixes_of_ignored_files_are_named() -> None:
    sounds(18)
    for number in range(500):
        Path(f"sounds/class00/1.2.840.{number}").touch()
    for number in range(3):
        Path(f"sounds/class00/{number}.txt").touch()
    output = init("sounds")
    assert "ignored 503 files of other kinds (" in output
    assert "3 .txt, 491 other suffixes)" in output


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
    output = init("many", code=1)
    for line in (
        "series '0-0' ('class0' and 'other') has more than one label",
        "series '0-1' has two rows at one time",
        "many/b.parquet: series '3-7' is also in many/a.parquet: series '3-7': an id stands for one series",
        "many/c.csv: no column 'v'",
    ):
        assert output.count(line) == 1, line


def measured(classes: int = 4, each: int = 6, steps: int = 12) -> pd.DataFrame:
    """A table of series."""
    draw = np.random.default_rng(0)
    rows = [(f"{c}-{i}", f"k{c}") for c in range(classes) for i in range(each) for _ in range(steps)]
    frame = pd.DataFrame(rows, columns=["id", "label"])
    return frame.assign(x=draw.normal(size=len(rows)), y=draw.normal(size=len(rows)))


def with_other_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with columns of numbers that are not measurements."""
    step = frame.groupby("id").cumcount()
    jitter = np.random.default_rng(1).integers(0, 2, len(frame))
    return frame.assign(
        step=step,
        seconds=step * 0.02,
        Timestamp=1_700_000_000 + 3 * step + jitter,
        taken=pd.Timestamp(2026, 3, 1) + pd.to_timedelta(step, "s"),
        series_number=frame.groupby("id").ngroup(),
        label_code=frame["label"].str[1:].astype(float),
        running=range(7, 7 + len(frame)),
        note="of no account",
    )


SERIES: dict[str, tuple[str, Callable[[pd.DataFrame, Path], object]]] = {
    "CSV with the index": ("a.csv", lambda frame, path: frame.to_csv(path)),
    "CSV with the index of a CSV with the index": (
        "a.csv",
        lambda frame, path: frame.assign(**{"Unnamed: 0": range(len(frame))}).to_csv(path),
    ),
    "CSV with the index as a column": (
        "a.csv",
        lambda frame, path: frame.reset_index().to_csv(path, index=False),
    ),
    "CSV of R": (
        "a.csv",
        lambda frame, path: frame.set_axis(frame.index + 1).to_csv(path, quoting=csv.QUOTE_NONNUMERIC),
    ),
    "CSV of Excel": (
        "a.CSV",
        lambda frame, path: frame.to_csv(path, sep=";", encoding="utf-16", lineterminator="\r\n"),
    ),
    "CSV with a separator and an empty row at the end": (
        "a.csv",
        lambda frame, path: path.write_text(frame.to_csv(index=False, lineterminator=",\n") + ",,,,\n"),
    ),
    "TSV": ("a.tsv", lambda frame, path: frame.to_csv(path, sep="\t", index=False, encoding="utf-8-sig")),
    "Parquet with an index": (
        "a.parquet",
        lambda frame, path: frame.set_axis(frame.index + 5).to_parquet(path),
    ),
    "Parquet with a named index": (
        "a.parquet",
        lambda frame, path: frame.assign(speed=frame["x"]).set_index("speed").to_parquet(path),
    ),
    "Parquet of categories": (
        "a.parquet",
        lambda frame, path: frame.astype({"label": "category"}).to_parquet(path),
    ),
    "columns that nobody measured": (
        "a.csv",
        lambda frame, path: with_other_columns(frame).to_csv(path, index=False),
    ),
    "the same in Parquet": ("a.parquet", lambda frame, path: with_other_columns(frame).to_parquet(path)),
}


def gathered(name: str) -> inspectors.Gathered:
    """Gather a table of series as `metashot init` does."""
    raw = folders.Raw(path=name, splits="", md5="")
    kind = inspectors.choose(raw, Path())
    assert kind is inspectors.SERIES
    return kind.gather(raw, Path(), {})


def read_series(name: str) -> dict[tuple[str, str], np.ndarray]:
    """Every series of a table by label and id, as the stages read it."""
    raw = series_table.Raw(path=name, md5="")
    Path("raw").mkdir()
    series_table.download(replace(raw, md5=series_table.digest(raw, Path())), Path("raw"))
    prepare = series_table.Prepare(
        channels=("x", "y"), length=16, fit="crop", standardise="none", repeated="refuse", split=SHARES
    )
    items = series_table.items(prepare, Path("raw"))
    return {(i.key.class_, i.key.name): np.frombuffer(i.read()).reshape(2, -1) for i in items}


SHARES = division.Shares(of="classes", seed=0, val=0.25, test=0.25)


@pytest.mark.parametrize("way", SERIES)
def test_channels_are_the_measurements_in_any_format_of_table(way: str) -> None:
    name, write = SERIES[way]
    frame = measured()
    write(frame, Path(name))
    result = gathered(name)
    assert not result.contents.mistakes
    assert result.summary["channels"] == "x, y"
    assert len(result.contents.samples) == 24
    expected = {key: rows[["x", "y"]].to_numpy().T for key, rows in frame.groupby(["label", "id"])}
    actual = read_series(name)
    assert actual.keys() == expected.keys()
    for key, values in actual.items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-12)


def test_columns_that_are_not_channels_are_reported() -> None:
    with_other_columns(measured()).to_csv("a.csv")
    assert gathered("a.csv").summary["left out"] == (
        "a column without a name (the table's index); taken (times); note (text); step (a clock); seconds (a "
        "clock); Timestamp (a clock); series_number (the same throughout each series); label_code (the same "
        "throughout each series); running (a number for each row)"
    )


def test_an_increasing_column_is_a_channel_if_there_is_no_other() -> None:
    frame = measured()
    frame.assign(x=frame.groupby("id").cumcount().astype(float)).drop(columns="y").to_csv("a.csv")
    assert gathered("a.csv").summary["channels"] == "x"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (lambda frame: frame["label"] + frame["id"].str[-1].map({"1": " ", "2": "\u00a0"}).fillna(""), None),
        (lambda frame: frame["label"].str[1:].astype(int), {"0", "1", "2", "3"}),
        (lambda frame: frame["label"].str[1:].astype(float), {"0", "1", "2", "3"}),
        (lambda frame: frame["label"] > "k1", {"False", "True"}),
        (
            lambda frame: frame["label"].map({"k0": "caf\u00e9", "k1": "cafe\u0301"}).fillna("b"),
            {"caf\u00e9", "b"},
        ),
    ],
)
def test_labels_of_series_have_one_name(
    name: str, labels: Callable, names: set[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = measured()
    frame["label"] = labels(frame)
    write = frame.to_csv if name == "a.csv" else frame.to_parquet
    write(name)
    merged = names is None or "b" in names
    assert ("merged" in gathered(name).summary) == merged
    assert {label for label, _ in read_series(name)} == (names or {"k0", "k1", "k2", "k3"})
    assert capsys.readouterr().err.count("labels that read alike are one class") == merged


def changed(**columns: Callable[[pd.DataFrame], object]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{name: change(frame) for name, change in columns.items()})


@pytest.mark.parametrize(
    ("change", "options", "line"),
    [
        (
            lambda frame: frame,
            {"sep": ";", "decimal": ","},
            "a.csv: column 'x': 288 values ('0,12",
        ),
        (
            lambda frame: frame.round(0).astype({"x": int}),
            {"sep": ";", "decimal": ","},
            "write decimals with a point",
        ),
        (
            changed(x=lambda frame: frame["x"].round(3).astype(str).where(frame.index % 100 > 0, "?")),
            {},
            "column 'x': 3 values ('?' in row 0, '?' in row 100, '?' in row 200) are not numbers: write",
        ),
        (
            lambda frame: with_other_columns(frame).sample(frac=1, random_state=0),
            {},
            " columns (a.csv: column 'step' is a clock, a.csv: column 'seconds' is a clock, a.csv: column ",
        ),
        (
            changed(x=lambda frame: frame["x"].where(frame.index > 0)),
            {"na_rep": "NA"},
            "a.csv: 'k0/0-0' is without a finite number in channel 'x' at step 0",
        ),
        (
            changed(label=lambda frame: frame["label"].where(frame.index > 9, " ")),
            {},
            "a.csv: column 'label' is empty in rows 0, 1, 2, … (10)",
        ),
        (
            changed(id=lambda frame: frame["id"].where(frame.index > 5, "0-0 ")),
            {},
            "a.csv: ids that read alike: '0-0",
        ),
        (
            changed(label=lambda frame: frame["label"].where(frame.index % 12 > 0, "other")),
            {},
            "24 series (a.csv: series '0-0' ('k0' and 'other'), a.csv: series '0-1' ('k0' and 'other'), ",
        ),
    ],
)
def test_a_mistake_in_a_table_of_series_is_reported_once(change: Callable, options: dict, line: str) -> None:
    change(measured()).to_csv("a.csv", index=False, **options)
    try:
        inspection = inspect.inspect(folders.Raw(path="a.csv", splits="", md5=""), Path())
        lines = [*inspection.contents.mistakes, *inspection.unreadable]
    except MetashotError as error:
        lines = [str(error)]
    assert len([reported for reported in lines if line in reported]) == 1
    assert len(lines) <= 2  # no classes are left of some


def test_rows_with_row_names_are_reported() -> None:
    rows = measured().to_csv().replace(",id", "id", 1)  # as R's write.table has it
    Path("a.csv").write_text(rows)
    raw = folders.Raw(path="a.csv", splits="", md5="")
    (line,) = inspectors.choose(raw, Path()).gather(raw, Path(), {}).contents.mistakes
    assert line.startswith(
        "288 rows (a.csv: line 2, a.csv: line 3, a.csv: line 4, …): more values than columns"
    )


@pytest.mark.parametrize(
    ("split", "line"),
    [
        (
            lambda frame: frame["id"].str[-1].map({"0": "test", "1": "val"}).fillna("train"),
            "a.csv: 4 classes (class all/k0 is in test and train and val, class all/k1 is in test and train ",
        ),
        (
            lambda frame: frame["label"].map({"k0": "train", "k1": "train"}).fillna("test"),
            "a.csv: no samples for split val; it needs more classes",
        ),
    ],
)
def test_init_refuses_a_column_split_as_preprocess_does(split: Callable, line: str) -> None:
    frame = measured()
    frame.assign(split=split(frame)).to_csv("a.csv")
    output = init("a.csv", code=1)
    assert line in output
    assert Path("params.yaml").read_text() == SHIPPED
    raw = series_table.Raw(path="a.csv", md5="")
    Path("raw").mkdir()
    series_table.download(replace(raw, md5=series_table.digest(raw, Path())), Path("raw"))
    prepare = series_table.Prepare(
        channels=("x",), length=16, fit="crop", standardise="none", repeated="refuse", split="listed"
    )
    with pytest.raises(MetashotError) as refusal:
        preprocess(series_table, prepare, Path("raw"), Path("out.parquet"))
    reason = str(refusal.value).removeprefix("raw: ")
    assert f"error: a.csv: {reason}" in output


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_table_is_of_texts_where_its_columns_say_so(name: str) -> None:
    frame = pd.DataFrame(requests(), columns=["text", "label"])
    frame = frame.assign(id=range(len(frame)), length=frame["text"].str.len())
    write = frame.to_csv if name == "a.csv" else frame.to_parquet
    write(name)
    init(name, "--name", "mine")
    assert described("mine")["source"] == "text_table"
    assert sum(len(split.labels) for split in prepared("mine")) == 240


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.xlsx", "a.xlsx: spreadsheets cannot be read: save it as CSV in UTF-8"),
        ("a.csv.gz", "a.csv.gz: compressed, but not as zip: unpack it, or pack it as zip"),
        ("a.txt", "a.txt: neither a zip file nor a file with a known suffix ("),
    ],
)
def test_a_file_other_than_a_table_is_one_line_with_advice(name: str, line: str) -> None:
    Path(name).write_text("text\tlabel\na\tb\n")
    with pytest.raises(MetashotError) as refusal:
        inspectors.choose(folders.Raw(path=name, splits="", md5=""), Path())
    assert str(refusal.value).startswith(line)


def test_texts_in_two_splits_are_named_by_their_words() -> None:
    rows = requests()
    as_csv(
        Path("some.csv"),
        [*rows, *(("the very same", f"intent{c:02d}") for c in range(20))],
        ("text", "label"),
    )
    output = init("some.csv")
    assert "'the very same' = 'the very same'" in output
    assert described("some")["prepare"]["repeated"] == "remove"


def test_series_are_detected_and_prepared(tmp_path: Path) -> None:
    toys.write_series(Path("waves.csv"), 18, 8)
    with Path("waves.csv").open() as file:
        lengths = Counter(row["id"] for row in csv.DictReader(file))
    output = init("waves.csv", "--name", "waves")
    assert "channels x, y, z" in output
    assert "classes 18" in output
    assert f"steps {min(lengths.values())} to {max(lengths.values())}" in output
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
    output = init("folder")
    assert "by lists: 3 / 3 / 3 classes" in output
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
    output = init(str(SHARED / "clinc150/data_full.json"), "--name", "intents")
    assert "classes 151" in output  # with what is out of scope, which is a part of its own
    assert "100 in" in output
    assert "1,000 in" in output
    with (SHARED / "banking77/train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    Path("bank").mkdir()
    shutil.copy(SHARED / "banking77/train.csv", "bank")
    output = init("bank")
    assert f"classes {len({row['category'] for row in rows})}" in output
    assert f"{len(rows):,} in bank/train.csv" in output


def test_kinds_are_those_of_the_sources() -> None:
    assert {audio_folder, series_table, text_table} <= {
        sources.SOURCES[name] for name in inspectors.OF_SOURCE
    }
