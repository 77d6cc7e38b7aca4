"""Series: tables, their preparation against closed forms, and the pipeline to predictions."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from project import Project
from serving import ask, serving
from typer.testing import CliRunner

from benchmarks import toys
from metashot.cli.app import app
from metashot.data import store
from metashot.data.files import division
from metashot.data.kinds import series
from metashot.data.preprocess import preprocess
from metashot.data.sources import series_table
from metashot.errors import MetashotError
from metashot.learning.models import methods

PREPARE = series_table.Prepare(
    channels=("x", "y"),
    length=8,
    fit="crop",
    standardise="none",
    repeated="refuse",
    split=division.Shares(of="classes", seed=0, val=0.25, test=0.25),
)
RANDOM = np.random.default_rng(0)


def fitted(values: object, **options: object) -> np.ndarray:
    """A series of one channel."""
    prepare = replace(PREPARE, channels=("x",), **options)
    actual = series.fitted(np.array([values], float), prepare.form)
    assert (actual.shape, actual.dtype) == ((1, prepare.length), np.float32)
    return actual[0]


def test_crop_takes_the_middle_and_puts_zeros_around() -> None:
    assert fitted(range(8)).tolist() == [*range(8)]
    assert fitted(range(1, 11)).tolist() == [*range(2, 10)]
    assert fitted(range(1, 12)).tolist() == [*range(2, 10)]
    assert fitted([5, 6, 7, 8, 9]).tolist() == [0, 5, 6, 7, 8, 9, 0, 0]


def test_stretch_keeps_ends_and_straight_lines() -> None:
    for steps in (2, 5, 8, 31):
        actual = fitted(3 + 2 * np.linspace(0, 1, steps), fit="stretch")
        np.testing.assert_allclose(actual, np.linspace(3, 5, 8), rtol=1e-6)
    assert fitted([0, 1, 0], fit="stretch", length=5).tolist() == [0, 0.5, 1, 0.5, 0]


def test_a_standardised_channel_has_mean_0_and_deviation_1_and_a_still_one_is_0() -> None:
    values = RANDOM.normal(500, 30, 200)
    actual = fitted(values, standardise="series", length=200)
    assert abs(actual.mean()) < 1e-6
    assert abs(actual.std() - 1) < 1e-6
    np.testing.assert_allclose(
        actual, fitted(-7 + 0.001 * values, standardise="series", length=200), atol=1e-4
    )
    padded = fitted([1, 3], standardise="series")
    assert padded.tolist() == [0, 0, 0, -1, 1, 0, 0, 0]  # what is around is at the mean
    assert not fitted([0.1] * 9, standardise="series").any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "too short: 1 time steps"),
        ([], "too short: 0 time steps"),
        ([1, 2, np.nan, 4], "without a finite number in channel 'x' at step 2"),
        ([1, -np.inf], "without a finite number in channel 'x' at step 1"),
        ([1, 2, 1e39], "without a finite number in channel 'x' at step 2"),
    ],
)
def test_other_values_than_series_are_one_line(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        fitted(values)


Rows = list[dict[str, object]]


def rows_of(classes: int = 8, each: int = 2, steps: int = 10) -> Rows:
    """A table with series and steps in random order."""
    rows: Rows = [
        {"id": f"{class_}-{number}", "label": f"c{class_}", "time": step, "x": RANDOM.normal(), "y": step / 3}
        for class_ in range(classes)
        for number in range(each)
        for step in range(steps)
    ]
    return [rows[place] for place in RANDOM.permutation(len(rows))]


def as_csv(rows: Rows) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def packed(files: dict[str, bytes], path: str = "tables") -> Path:
    """Files in the working directory, packed by `download`."""
    for name, content in files.items():
        (Path("tables") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("tables") / name).write_bytes(content)
    raw = series_table.Raw(path=path, md5="")
    Path("raw").mkdir(exist_ok=True)
    series_table.download(replace(raw, md5=series_table.digest(raw, Path())), Path("raw"))
    return Path("raw")


def read(files: dict[str, bytes], prepare: series_table.Prepare = PREPARE) -> dict[tuple, np.ndarray]:
    """Every series by its label and id."""
    items = series_table.items(prepare, packed(files))
    return {(i.key.class_, i.key.name): np.frombuffer(i.read()).reshape(2, -1) for i in items}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_table_agrees_with_a_loop_over_its_rows() -> None:
    rows = rows_of()
    expected = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["time"]):
        expected[row["label"], row["id"]].append((row["x"], row["y"]))
    for files in (
        {"a.csv": as_csv(rows)},
        {"a.parquet": as_parquet(rows)},
        {
            "a.csv": as_csv([row for row in rows if row["label"] < "c5"]),
            "below/b.PARQUET": as_parquet([row for row in rows if row["label"] >= "c5"]),
        },
    ):
        for path in Path("tables").rglob("*.*"):
            path.unlink()
        actual = read(files)
        assert {key: [*map(tuple, values.T)] for key, values in actual.items()} == expected


def test_without_times_rows_are_in_the_order_of_the_table() -> None:
    rows = [{key: value for key, value in row.items() if key != "time"} for row in rows_of()]
    actual = read({"a.csv": as_csv(rows)})
    for (_, id_), values in actual.items():
        assert values[0].tolist() == [row["x"] for row in rows if row["id"] == id_]


def test_times_are_numbers_or_dates() -> None:
    rows = rows_of()
    expected = read({"a.csv": as_csv(rows)})
    stamped = [row | {"time": f"2026-03-01T09:{row['time']:02d}:00"} for row in rows]
    fractions = [row | {"time": row["time"] / 7 - 1} for row in rows]
    for other in (stamped, fractions):
        actual = read({"a.csv": as_csv(other)})
        assert actual.keys() == expected.keys()
        assert all(np.array_equal(actual[key], expected[key]) for key in actual)


def test_names_that_look_like_something_else_stay_names() -> None:
    names = {"c0": "NA", "c1": "007"}
    rows = [
        row | {"id": row["id"].replace("-", ""), "label": names.get(row["label"], row["label"])}
        for row in rows_of()
    ]
    assert {("NA", "00"), ("007", "10"), ("c2", "21")} <= read({"a.csv": as_csv(rows)}).keys()


SPLIT = {f"c{number}": split for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2)}
LISTED = replace(PREPARE, split="listed")


def test_the_column_split_divides_and_one_file_is_enough() -> None:
    rows = [row | {"split": SPLIT[row["label"]], "note": "of no account"} for row in rows_of()]
    raw = packed({"a.csv": as_csv(rows)}, "tables/a.csv")
    preprocess(series_table, LISTED, raw, Path("out.parquet"))
    actual = store.load(Path("out.parquet"), "val")
    assert actual.class_names == ["all/c4", "all/c5"]
    assert actual.form == PREPARE.form
    assert (actual.samples.dtype, actual.samples.shape) == (np.float32, (4, 2, 8))
    np.testing.assert_allclose(actual.samples[:, 1], np.arange(1, 9)[None].repeat(4, 0) / 3, rtol=1e-6)


def spoil(**changes: object) -> Callable[[Rows], Rows]:
    """Other values in the first row."""
    return lambda rows: [rows[0] | changes, *rows[1:]]


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{key: value for key, value in row.items() if key != column} for row in rows]


@pytest.mark.parametrize("form", [as_csv, as_parquet])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("id"), "no column 'id' (there are label, time, x, y)"),
        (without("label"), "no column 'label'"),
        (without("y"), "no column 'y' (there are id, label, time, x)"),
        (spoil(id=None), "column 'id' is empty in row 0"),
        (spoil(label=None), "column 'label' is empty in row 0"),
        (spoil(time=None), "column 'time' is empty in row 0"),
        (spoil(label="c99"), "') has more than one label"),
        (spoil(time=99.5), ""),  # is not a mistake
        (lambda rows: [*rows, rows[0]], "has two rows at one time"),
        (
            lambda rows: [*rows, *(row | {"id": "z", "label": "C1"} for row in rows[:1])],
            "'C1' and 'c1' differ in",
        ),
    ],
)
def test_a_wrong_table_is_one_clear_line(
    form: Callable[[Rows], bytes], change: Callable[[Rows], Rows], message: str
) -> None:
    name = f"a.{form.__name__.removeprefix('as_')}"
    if not message:
        assert read({name: form(change(rows_of()))})
        return
    with pytest.raises(MetashotError) as caught:
        read({name: form(change(rows_of()))})
    assert message in str(caught.value)
    assert "raw/tables" in str(caught.value)
    assert "\n" not in str(caught.value)


ROWS = as_csv(rows_of())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": b""}, "member 'a.csv': has no column names: its first line"),
        ({"a.csv": b"id,label,x,y\n"}, "member 'a.csv': a table without rows"),
        ({"a.csv": ROWS + b"1,2\n"}, "member 'a.csv': line 162: fewer values than columns"),
        ({"a.csv": ROWS + b"1,2,3,4,5,6\n\n"}, "member 'a.csv': line 162: more values than columns"),
        ({"a.csv": b"# made in 2026\n" + ROWS}, "member 'a.csv': begins with #: remove comments"),
        ({"a.csv": ROWS.replace(b"x,y", b"x,x")}, "more than one column 'x' (there are"),
        (
            {"a.csv": b"id,label,x,y,x\n1,a,1,2,3\n"},
            "more than one column 'x' (there are id, label, x, y, x)",
        ),
        ({"a.csv": b"id,label,x,y\n1,a,1,tall\n"}, "column 'y': 1 values ('tall' in row 0) are not numbers"),
        ({"a.csv": b"id,label,x,y,time\n1,a,1,2,noon\n"}, "cannot be read as a table of series ("),
        ({"a.csv": b"id,label,x,y\n\xff\xfe,a,1,2\n"}, "member 'a.csv': byte 13 is not UTF-8: save the file"),
        ({"a.parquet": b"no table"}, "member 'a.parquet': cannot be read (Parquet"),
        ({"a.parquet": as_parquet(rows_of())[:-99]}, "member 'a.parquet': cannot be read ("),
        ({"a.parquet": as_parquet([{"id": [1], "label": "a", "x": 1, "y": 2}])}, "column 'id' is list<"),
        ({"a.csv": ROWS, "b.csv": ROWS}, "an id stands for one series"),
    ],
)
def test_an_invalid_table_is_one_clear_line(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(MetashotError) as caught:
        read(files)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_that_are_none_and_channels_that_cannot_be() -> None:
    with pytest.raises(MetashotError, match="no column 'split'"):
        read({"a.csv": ROWS}, LISTED)
    with pytest.raises(MetashotError, match="column 'split': 'dev' is not train, val or test"):
        read({"a.csv": as_csv([row | {"split": "dev"} for row in rows_of()])}, LISTED)
    for channels in ((), ("x", "x"), ("x", "label"), ("time",)):
        with pytest.raises(ValueError, match=r"^channels: "):
            replace(PREPARE, channels=channels)
    with pytest.raises(ValueError, match=r"^length: "):
        replace(PREPARE, length=1)
    Path("empty").mkdir()
    with pytest.raises(MetashotError, match="empty: no CSV, TSV or Parquet file in it"):
        packed({}, "empty")


def test_a_series_with_a_gap_is_named() -> None:
    rows = [row | {"split": SPLIT[row["label"]]} for row in rows_of()]
    next(row for row in rows if (row["id"], row["time"]) == ("3-1", 4))["x"] = None
    for name, content in (("a.csv", as_csv(rows)), ("a.parquet", as_parquet(rows))):
        raw = packed({name: content})
        with pytest.raises(MetashotError, match=r"series '3-1' is without a finite .* 'x' at step 4"):
            preprocess(series_table, LISTED, raw, Path("out.parquet"))
        (Path("tables") / name).unlink()


CHANNEL = replace(LISTED, standardise="channel", length=10)


def rows_in_splits(shift: float = 0.0) -> Rows:
    """Series of the test are ``shift`` higher."""
    random = np.random.default_rng(1)
    return [
        row
        | {"split": SPLIT[row["label"]], "y": 7.5}
        | {"x": random.normal(5, 3) + shift * (SPLIT[row["label"]] == "test")}
        for row in sorted(rows_of(), key=lambda row: (row["id"], row["time"]))
    ]


def test_channels_are_standardised_by_the_training_split_alone() -> None:
    rows = rows_in_splits()
    preprocess(series_table, CHANNEL, packed({"a.csv": as_csv(rows)}), Path("out.parquet"))
    train, test = (store.load(Path("out.parquet"), split) for split in ("train", "test"))
    values = np.array([row["x"] for row in rows if row["split"] == "train"])
    decoding = train.form.decoding
    np.testing.assert_allclose(decoding["mean"], [values.mean(), 7.5], rtol=1e-12)
    np.testing.assert_allclose(decoding["deviation"], [values.std(), 0], rtol=1e-12, atol=1e-12)
    assert abs(train.samples[:, 0].mean()) < 1e-6
    assert abs(train.samples[:, 0].std() - 1) < 1e-6
    assert not train.samples[:, 1].any()  # a constant channel
    series_of_test = np.array([row["x"] for row in rows if row["split"] == "test"]).reshape(-1, 10)
    np.testing.assert_allclose(
        test.samples[:, 0], (series_of_test - values.mean()) / values.std(), rtol=1e-5, atol=1e-6
    )
    preprocess(series_table, CHANNEL, packed({"a.csv": as_csv(rows_in_splits(99))}), Path("high.parquet"))
    high = store.load(Path("high.parquet"), "test")
    assert high.form == train.form
    assert high.samples[:, 0].min() > 20


def test_a_request_is_standardised_as_the_training_data_were() -> None:
    rows = rows_in_splits()
    preprocess(series_table, CHANNEL, packed({"a.csv": as_csv(rows)}), Path("out.parquet"))
    test = store.load(Path("out.parquet"), "test")
    first = [row for row in rows if row["split"] == "test"][:10]
    served = series.served([[row["x"] for row in first], [row["y"] for row in first]], test.form)
    assert np.array_equal(served, test.samples[0])
    assert not series.served([[5.0] * 10, [100.0] * 10], test.form)[1].any()


def test_what_training_shares_with_the_test_is_not_measured() -> None:
    """It is removed from training."""
    rows = rows_in_splits(99)
    copy = [row for row in rows if row["split"] == "test"][:10]
    copies = [row | {"id": "copy", "label": "c0", "split": "train"} for row in copy]
    remove = replace(CHANNEL, repeated="remove")
    preprocess(series_table, remove, packed({"a.csv": as_csv(rows + copies)}), Path("out.parquet"))
    values = [row["x"] for row in rows if row["split"] == "train"]
    train = store.load(Path("out.parquet"), "train")
    np.testing.assert_allclose(train.form.decoding["mean"][0], np.mean(values), rtol=1e-12)


def test_constants_of_no_series_at_all_and_of_those_that_are_refused() -> None:
    form = replace(PREPARE, standardise="channel").form
    wrong = [np.array([[1.0], [2.0]]), np.array([[np.nan, 1.0], [1.0, 2.0]])]
    measured = series.measured(form, map(series.encode, wrong))
    assert measured.decoding["deviation"] == [0, 0]
    assert not series.fitted(np.ones((2, 5)), measured).any()
    assert series.measured(PREPARE.form, []) == PREPARE.form


CLASSES, SAMPLES = 100, 8
TEST = [class_ for class_ in range(CLASSES) if toys.split_of(class_, CLASSES) == "test"]


DATASET = "series_table"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict]:
    """Oscillations, trained through the stages, and the metrics of each method."""
    folder = tmp_path_factory.mktemp("series")
    toys.write_series(folder / "waves.csv", CLASSES, SAMPLES)
    project = Project(folder / "project")
    raw = series_table.Raw(path=str(folder / "waves.csv"), md5="")
    with project.params() as params:
        section = params["data"]["series_table"]
        section["raw"] = {"path": raw.path, "md5": series_table.digest(raw, Path())}
        section["prepare"] |= {"channels": list(toys.CHANNELS), "split": "listed"}
        section["budget"] = {"prototypical": 250, "maml": {"steps": 150, "lr": 2e-3, "train_way": 20}}
        params["datasets"] = ["series_table"]
        params["setting"]["5w1s"] |= {"n_query": 7, "train_way": 20, "train_episodes": 200, "extra": {}}
    return project, project.make(DATASET)


@pytest.fixture(scope="module")
def model_root(trained: tuple[Project, dict]) -> Path:
    """See `published`."""
    return trained[0].root


@pytest.mark.slow
def test_methods_learn_to_tell_unseen_series_apart(trained: tuple[Project, dict]) -> None:
    for measured in trained[1].values():  # chance is 0.2
        assert measured["accuracy"] - measured["ci95"] > max(0.5, measured["untrained"]["accuracy"])


TASK = [
    (toys.oscillation(class_, sample).tolist(), f"wave{class_:03d}" if sample == 0 else None)
    for sample in range(4)
    for class_ in TEST[:5]
]
COLUMNS = ("series", "label")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_served_answers_are_direct_ones(
    published: tuple, model_root: Path, method: str, tmp_path: Path
) -> None:
    root, versions = published
    plain = mlflow.pyfunc.load_model(versions[method].source)
    answer = ask(plain, TASK, COLUMNS)
    direct = methods.load(model_root / f"models/{DATASET}-5w1s/{method}")
    values = [series.fitted(np.array(value), direct.problem.form) for value, _ in TASK]
    samples = torch.from_numpy(np.stack(values))[None]
    with torch.no_grad():
        truth = direct.predict(samples[:, :5], torch.arange(5)[None], samples[:, 5:], 5)[0].numpy()
    shown = [[row["probabilities"][label] for _, label in TASK[:5]] for row in answer]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)
    right = [row["label"] == TASK[number % 5][1] for number, row in enumerate(answer)]
    assert np.mean(right) > 0.4
    if method == "prototypical":
        as_arrays = [(np.array(value), label) for value, label in TASK]
        assert ask(plain, as_arrays, COLUMNS) == answer
        with serving(
            root, {method: f"models:/series_table-5w1s/{versions[method].version}"}, tmp_path
        ) as addresses:
            assert ask(addresses[method], TASK, COLUMNS) == answer
            for value, message in WRONG:
                assert (
                    ask(addresses[method], [*TASK, (value, None)], COLUMNS) == f"row 20: series is {message}"
                )
                assert ask(plain, [*TASK, (value, None)], COLUMNS) == f"row 20: series is {message}"


LISTS = "give 3 lists (x, y, z) of equally many numbers"
WRONG = [
    ([[1, 2], [3, 4]], f"list: {LISTS}"),
    ([[1, 2], [3, 4], [5]], f"list: {LISTS}"),
    ([1, 2, 3], f"list: {LISTS}"),
    ([["a", 2], [3, 4], [5, 6]], f"list: {LISTS}"),
    ("1, 2, 3", f"str: {LISTS}"),
    (None, f"null: {LISTS}"),
    ([[1], [3], [5]], "too short: 1 time steps, at least 2 are needed"),
    ([[1, 2], [3, None], [5, 6]], "without a finite number in channel 'y' at step 1"),
]


@pytest.mark.slow
def test_predict_refuses_files_for_series(published: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published[0])
    done = CliRunner().invoke(app, ["predict", "series_table-5w1s", "a.csv", "--support", "."])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: series_table-5w1s/1 takes series in a table, not files")


def test_the_section_of_params_yaml_is_valid() -> None:
    section = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["data"]["series_table"]
    known = {key: value for key, value in section["prepare"].items() if key not in ("split", "repeated")}
    assert series.Prepare(**known | {"channels": tuple(known["channels"])}).form.shape == (3, 128)
