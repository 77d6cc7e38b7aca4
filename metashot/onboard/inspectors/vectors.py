"""Vectors: tables of numbers that another program made, a row for each sample."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from metashot.data import Item
from metashot.data.files import Files, class_names, columnar, division, folders, tables
from metashot.data.kinds import vectors
from metashot.data.sources import vector_table
from metashot.errors import MetashotError, Mistakes
from metashot.onboard.inspectors.base import Gathered, SampleInspection, too_few_classes

FEWEST = 8  # columns of numbers of a table without ids that is taken for one of vectors


def is_vectors(content: bytes, name: str, schema: pa.Schema) -> bool:
    """Whether a table is one of vectors: it has a column of lists, or numbers and one row for each id."""
    if "label" not in schema.names:
        return False
    if _lists(schema):
        return True
    if "id" not in schema.names:
        return len(vector_table.numbered(schema)) >= FEWEST
    if len(vector_table.numbered(schema)) < 2:
        return False
    ids = columnar.typed(content, name, columnar.suffix_of(name)).column("id")
    return len(ids) > 1 and len(ids.unique()) == len(ids)


class Vectors:
    """Tables of vectors; see `vector_table`."""

    source: ClassVar = "vector_table"
    noun: ClassVar = "vectors"
    suffixes: ClassVar = vector_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`; width and column are those of the first table."""
        if raw.splits:
            raise MetashotError("--splits: a table of vectors has a column `split` instead")
        files = vector_table.find(raw.path, root)
        name, read = next(iter(files.items()))
        schema = columnar.schema(read(), columnar.origin_of(raw.path, name), columnar.suffix_of(name))
        prepare = _prepare(schema, vector_table.read(read(), raw.path, name, Mistakes()))
        samples: Files = {}
        mistakes, labels = Mistakes(), tables.Labels()
        first: dict[str, Item] = {}
        for name, read in files.items():
            origin = columnar.origin_of(raw.path, name)
            try:
                for item in vector_table.of_table(read(), origin, name, prepare, labels, mistakes):
                    if first.setdefault(item.key.name, item) is not item:
                        mistakes.add(f"{item.origin}:", "an id stands for one vector")
                    parts = tuple(item.key) if prepare.split == "listed" else item.key[2:]
                    samples["/".join(part.replace("/", "|") for part in parts)] = item.read
            except MetashotError as error:
                mistakes.add_line(error)
        classes = {name.split("/")[-2] for name in samples}
        lines = [*mistakes.lines, *class_names.ambiguous(raw.path, classes)]
        column = f"in the column {prepare.vector}" if prepare.vector else "a column each"
        summary = {"numbers": f"{prepare.width:,}, {column}"}
        if labels.merged:
            summary["merged"] = labels.merged
        lines = lines or too_few_classes(raw.path, samples)
        contents = folders.Contents(dict(sorted(samples.items())), {}, 0, lines)
        listed = prepare.split == "listed"
        return Gathered(contents, {"path": raw.path}, listed, partial(self.inspect, prepare), summary)

    def inspect(self, prepare: vector_table.Prepare, content: bytes) -> SampleInspection:
        """Inspect a vector; see `Gathered.inspect`."""
        _, digest = vectors.decode(content, prepare.form)
        return SampleInspection({"": digest}, None, (prepare.width, prepare.vector))

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """See `Inspector.summary`."""
        return {}

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        return [
            "vectors: state what made them in prepare.encoder_name, and what that was trained on in "
            f"encoder_trained_on; the name {vector_table.NONE} says that nothing that was trained did"
        ]

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`."""
        width, vector = samples[0].facts if samples else (1, "")
        return {"width": width, "vector": vector}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        return {
            "prepare": {"encoder_name": "", "encoder_trained_on": "", "encoder_seen": ""},
            "backbone": {"name": "dense"},
            "augment": {},
        }


def _prepare(schema: pa.Schema, table: pa.Table) -> vector_table.Prepare:
    """The section ``prepare`` that fits a table, as far as its columns say it."""
    split: division.Division = (
        "listed" if "split" in schema.names else division.Shares(of="classes", seed=0, val=0.1, test=0.1)
    )
    vector, width = (_lists(schema) or [""])[0], len(vector_table.numbered(schema))
    if vector:
        width = len(table.column(vector)[0].as_py() or ())
    return vector_table.Prepare(width=width, vector=vector, repeated="refuse", split=split)


def _lists(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if vector_table.is_lists(field.type)]
