"""Samples and classes in two splits of a data file, put there by hand."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metashot.audit.leaks import Shared, shared


def changed(path, target, change):
    """A data file with its rows changed: ``change`` gets the columns as lists."""
    table = pq.read_table(path)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    change(columns)
    pq.write_table(pa.table(columns, schema=table.schema), target, row_group_size=100)
    return shared(target)


@pytest.fixture
def data(drawn):
    return drawn.root / "data/processed/glyphs.parquet"


def places(columns):
    """The first test sample, and the first training sample."""
    return columns["split"].index("test"), columns["split"].index("train")


@pytest.mark.slow
def test_what_preprocessing_makes_is_apart(data):
    assert shared(data) == Shared(0, 0, [])


def test_a_test_sample_among_those_of_training_is_found_under_its_digest_or_another(data, tmp_path):
    def whole(columns):
        test, train = places(columns)
        for name in ("sample", "digest"):
            columns[name][train] = columns[name][test]

    def sample(columns):
        test, train = places(columns)
        columns["sample"][train] = columns["sample"][test]

    assert changed(data, tmp_path / "whole", whole) == Shared(2, 0, [])
    assert changed(data, tmp_path / "sample", sample) == Shared(0, 2, [])


def test_the_same_sample_twice_in_one_split_is_no_leak(data, tmp_path):
    def twice(columns):
        _, train = places(columns)
        for name in ("sample", "digest"):
            columns[name][train + 1] = columns[name][train]

    assert changed(data, tmp_path / "twice", twice) == Shared(0, 0, [])


def test_a_class_in_two_splits_is_named(data, tmp_path):
    def renamed(columns):
        test, train = places(columns)
        columns["class"][train] = columns["class"][test]

    name = pq.read_table(data)["class"].to_pylist()[places(pq.read_table(data).to_pydict())[0]]
    assert changed(data, tmp_path / "renamed", renamed) == Shared(0, 0, [name])
