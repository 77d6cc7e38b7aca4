"""Tables of vectors: CSV and Parquet, columns of numbers or of lists."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metashot.data import store
from metashot.data.files import division
from metashot.data.kinds import vectors
from metashot.data.preprocess import preprocess
from metashot.data.sources import vector_table
from metashot.errors import MetashotError
from metashot.lineage.origin import DataFacts

WIDTH = 6
RANDOM = np.random.default_rng(0)
NUMBERS = RANDOM.normal(size=(24, WIDTH)).astype(np.float32)
LABELS = [f"c{row // 4}" for row in range(24)]
HALVES = [f"c{row // 12}" for row in range(24)]
SPLITS = ["train" if row < 8 else "val" if row < 16 else "test" for row in range(24)]
SHARES = division.Shares(of="samples", seed=0, val=0.25, test=0.25)
PREPARE = vector_table.Prepare(width=WIDTH, repeated="refuse", split="listed")


def parquet(columns: dict) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def wide(**more: list) -> dict:
    return {**more, **{f"v{place}": NUMBERS[:, place].tolist() for place in range(WIDTH)}}


def csv(columns: dict) -> bytes:
    rows = [columns, *zip(*columns.values(), strict=True)]
    return "\n".join(",".join(map(str, row)) for row in rows).encode()


def stored(
    folder: Path, tables: dict[str, bytes], prepare: vector_table.Prepare = PREPARE
) -> Callable[[str], store.SampleSet]:
    """The splits of tables."""
    (folder / "tables").mkdir()
    for name, content in tables.items():
        (folder / "tables" / name).write_bytes(content)
    raw = vector_table.Raw(path=str(folder / "tables"), md5="")
    (folder / "raw").mkdir()
    vector_table.download(replace(raw, md5=vector_table.digest(raw, Path())), folder / "raw")
    preprocess(vector_table, prepare, folder / "raw", folder / "data.parquet")
    return lambda split: store.load(folder / "data.parquet", split)


@pytest.mark.parametrize("layout", ["csv", "columns", "lists", "fixed lists"])
def test_numbers_are_those_of_the_table(layout: str, tmp_path: Path) -> None:
    named = {"label": LABELS, "split": SPLITS, "note": ["of no account"] * 24}
    prepare = PREPARE
    if layout.endswith("lists"):
        prepare = replace(PREPARE, vector="embedding")
        lists = pa.list_(pa.float32(), WIDTH) if layout.startswith("fixed") else pa.list_(pa.float64())
        content = parquet({**named, "embedding": pa.array(NUMBERS.tolist(), lists), "other": list(range(24))})
    else:
        content = csv(wide(**named)) if layout == "csv" else parquet(wide(**named))
    split = stored(tmp_path, {"a.csv" if layout == "csv" else "a.parquet": content}, prepare)
    for number, name in enumerate(("train", "val", "test")):
        rows = slice(8 * number, 8 * number + 8)
        np.testing.assert_array_equal(split(name).samples, NUMBERS[rows])
        assert split(name).class_names == [f"all/c{2 * number}", f"all/c{2 * number + 1}"]
        assert split(name).labels.tolist() == [0] * 4 + [1] * 4


def test_ids_name_rows_and_shares_divide_them(tmp_path: Path) -> None:
    ids = [f"sample/{row}" for row in range(24)]
    prepare = replace(PREPARE, split=SHARES, encoder_name="dinov2", encoder_trained_on="LVD-142M")
    split = stored(tmp_path, {"a.parquet": parquet(wide(id=ids, label=HALVES))}, prepare)
    rows = {tuple(row) for name in ("train", "val", "test") for row in split(name).samples}
    assert rows == {tuple(row) for row in NUMBERS}
    assert [len(split(name).labels) for name in ("train", "val", "test")] == [12, 6, 6]
    known = DataFacts.read(tmp_path / "data.parquet")
    assert known.marked("mine") == (
        "mine (known classes, pretrained encoder: dinov2, trained on LVD-142M; may have seen classes of "
        "these data)"
    )


def test_vectors_that_no_encoder_made_have_no_mark(tmp_path: Path) -> None:
    named = {"label": LABELS, "split": SPLITS}
    stored(tmp_path, {"a.csv": csv(wide(**named))}, replace(PREPARE, encoder_name="none"))
    assert DataFacts.read(tmp_path / "data.parquet").marked("mine") == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (parquet(wide(label=LABELS)), "no column 'split'"),
        (
            parquet(wide(label=LABELS, split=["dev", *SPLITS[1:]])),
            "column 'split': 'dev' is not train, val or",
        ),
        (parquet(wide(label=["", *LABELS[1:]], split=SPLITS)), "column 'label' is empty in row 0"),
        (
            parquet(wide(label=LABELS, split=SPLITS, more=[1.0] * 24)),
            "7 columns of numbers, but prepare.width is",
        ),
        (parquet(wide(id=["x"] * 24, label=LABELS, split=SPLITS)), "an id stands for one vector"),
        (
            parquet(wide(label=LABELS, split=SPLITS) | {"v3": [np.nan] * 24}),
            "without a finite number at position 3",
        ),
        (b"PAR1", "cannot be read"),
        (parquet({"label": [], "split": []}), "a table without rows"),
    ],
)
def test_a_mistake_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(MetashotError) as caught:
        stored(tmp_path, {"a.parquet": content})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0] * 5, "5 numbers long, not 6"),
        ([1.0, None, 1, 1, 1, 1], "without a finite number at position 1"),
        (None, "null: give a list of 6 numbers"),
        ("1 2 3", "str: give a list of 6 numbers"),
    ],
)
def test_a_request_is_a_list_of_numbers(value: object, message: str) -> None:
    form = PREPARE.form
    np.testing.assert_array_equal(vectors.served(NUMBERS[0].tolist(), form), NUMBERS[0])
    np.testing.assert_array_equal(vectors.served(NUMBERS[0], form), NUMBERS[0])
    with pytest.raises(ValueError, match=message):
        vectors.served(value, form)
