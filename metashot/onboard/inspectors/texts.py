"""Texts: tables with a column of texts and a column of labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from metashot.data.files import folders, tables
from metashot.data.kinds import texts
from metashot.data.sources import text_table
from metashot.errors import MetashotError, Mistakes
from metashot.onboard.inspectors.base import Gathered, SampleInspection, spread, too_few_classes

PARTS = 6  # files or parts that are listed one by one
TEXT = ("text", "sentence", "utterance", "query", "question")  # usual names of the column of texts
LABEL = ("label", "category", "intent", "class")  # and of the column of labels


class Texts:
    """Tables of labelled texts; see `text_table`."""

    source: ClassVar = "text_table"
    noun: ClassVar = "texts"
    suffixes: ClassVar = text_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`; columns and parts that are in params.yaml still apply."""
        section: dict[str, Any] = {"path": raw.path, "parts": [], "text": "", "label": "", "groups": ""}
        section |= {key: known[key] for key in section if key in known}
        section["splits"] = raw.splits
        parts = Counter[str]()
        mistakes, labels = Mistakes(), tables.Labels()
        try:
            entries = []
            for where, entry in text_table.entries(raw.path, root, section["parts"], mistakes):
                entries.append(entry)
                parts[where.rpartition(": ")[0]] += 1
            if not entries:
                mistakes.refuse()
            if not section["text"]:
                section["text"], section["label"] = _columns(raw.path, entries)
            contents = text_table.contents(text_table.Raw(**section, md5=""), root, labels)
        except MetashotError as error:
            lines = mistakes.lines or [str(error)]
            return Gathered(folders.Contents({}, {}, 0, lines), section, bool(raw.splits), self.inspect)
        samples = contents.samples
        lines = [*contents.mistakes] or too_few_classes(raw.path, samples)
        summary = {
            "columns": f"{section['text']} and {section['label']}",
            "rows": _count_rows(parts),
        }
        if labels.merged:
            summary["merged"] = labels.merged
        if not contents.mistakes:
            summary["repeated"] = f"{parts.total() - len(samples):,} rows repeat a text of their class"
        return Gathered(
            folders.Contents(samples, {}, 0, lines), section, bool(raw.splits), self.inspect, summary
        )

    def inspect(self, content: bytes) -> SampleInspection:
        """Inspect a text; see `Gathered.inspect`."""
        text = content.decode()
        normalised = texts.normalised(text)
        if not normalised:
            raise ValueError("empty")
        return SampleInspection({"": texts.digest(normalised)}, None, text)

    def summary(self, samples: Sequence[SampleInspection]) -> Mapping[str, str]:
        """See `Inspector.summary`."""
        return {"words": spread([len(sample.facts.split()) for sample in samples], ",.0f")}

    def warnings(self, samples: Mapping[str, SampleInspection]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        return []

    def detected(self, samples: Sequence[SampleInspection]) -> tuple[dict[str, Any], str]:
        """See `Inspector.detected`."""
        return {}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        return {
            "prepare": {"length": 256, "words": 2, "shortest": 3, "longest": 5},
            "backbone": {"name": "ngrams", "buckets": 4096, "width": 256, "drop_rate": 0.5},
            "augment": {},
        }


def _columns(path: str, entries: Sequence[Any]) -> tuple[str, str]:
    """Columns of texts and labels. Raises MetashotError if names do not identify them."""
    if all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        return "text", "label"
    columns = sorted({key for entry in entries if isinstance(entry, Mapping) for key in entry if key})
    if named := named_columns(columns):
        return named
    raise MetashotError(
        f"{path}: which columns are texts and labels? (there are {tables.listed(columns) or 'none'}): name "
        f"them {TEXT[0]} and {LABEL[0]}; a table of series has id, label and columns of numbers"
    )


def named_columns(columns: Sequence[str]) -> tuple[str, str] | None:
    """Columns of texts and labels with usual names; of two columns, one usual name is enough."""
    columns = [column for column in dict.fromkeys(columns) if not tables.INDEX.fullmatch(column)]
    text, label = (
        next((column for name in names for column in columns if column.lower() == name), None)
        for names in (TEXT, LABEL)
    )
    if len(columns) == 2 and bool(text) != bool(label):
        (other,) = {*columns} - {text, label}
        return text or other, label or other
    return (text, label) if text and label else None


def _count_rows(parts: Mapping[str, int]) -> str:
    """Number of rows in each part or, if there are many parts, in all."""
    if len(parts) > PARTS:
        return f"{sum(parts.values()):,} in {len(parts):,} files or parts"
    return ", ".join(f"{number:,} in {part}" for part, number in parts.items())
