"""Texts: tables with a column of texts and one of labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from metashot.data.files import folders, tables
from metashot.data.kinds import texts
from metashot.data.sources import text_table
from metashot.errors import MetashotError, Mistakes
from metashot.onboard.looks.base import Gathered, Look, few_classes, spread

PARTS = 6  # of tables, of which each is named
TEXT, LABEL = ("text", "sentence", "utterance", "query", "question"), ("label", "category", "intent", "class")


class Texts:
    """Tables of labelled texts; see `text_table`."""

    source: ClassVar = "text_table"
    noun: ClassVar = "texts"
    suffixes: ClassVar = text_table.SUFFIXES

    def gather(self, raw: folders.Raw, root: Path, known: Mapping[str, Any]) -> Gathered:
        """See `Inspector.gather`; columns and parts are those that params.yaml knows already, if it does."""
        said: dict[str, Any] = {"path": raw.path, "parts": [], "text": "", "label": "", "groups": ""}
        said |= {key: known[key] for key in said if key in known}
        said["splits"] = raw.splits
        parts = Counter[str]()
        mistakes, labels = Mistakes(), tables.Labels()
        try:
            entries = []
            for where, entry in text_table.entries(raw, root, said["parts"], mistakes):
                entries.append(entry)
                parts[where.rpartition(": ")[0]] += 1
            if not entries:
                mistakes.refuse()
            if not said["text"]:
                said["text"], said["label"] = _columns(raw.path, entries)
            contents = text_table.contents(text_table.Raw(**said, md5=""), root, labels)
        except MetashotError as error:
            lines = mistakes.lines or [str(error)]
            return Gathered(folders.Contents({}, Counter(), 0, lines), said, bool(raw.splits), self.look)
        samples, lines = contents.samples, [*contents.mistakes] or few_classes(raw.path, contents.samples)
        shown = {
            "columns": f"{said['text']} and {said['label']}",
            "rows": _rows(parts),
        }
        if labels.merged:
            shown["merged"] = labels.merged
        if not contents.mistakes:
            shown["repeated"] = f"{parts.total() - len(samples):,} rows are in their class already"
        return Gathered(
            folders.Contents(samples, Counter(), 0, lines), said, bool(raw.splits), self.look, shown
        )

    def look(self, content: bytes) -> Look:
        """Look at a text; see `Gathered.look`."""
        text = content.decode()
        normalised = texts.normalised(text)
        if not normalised:
            raise ValueError("empty")
        return Look({"": texts.digest(normalised)}, None, text)

    def rows(self, looks: Sequence[Look]) -> Mapping[str, str]:
        """See `Inspector.rows`."""
        return {"words": spread([len(look.facts.split()) for look in looks], ",.0f")}

    def warnings(self, looks: Mapping[str, Look]) -> Sequence[str]:
        """See `Inspector.warnings`."""
        return []

    def prepared(self, looks: Sequence[Look]) -> tuple[dict[str, Any], str]:
        """See `Inspector.prepared`."""
        return {}, ""

    def defaults(self, prepare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """See `Inspector.defaults`."""
        return {
            "prepare": {"length": 256, "words": 2, "shortest": 3, "longest": 5},
            "backbone": {"name": "ngrams", "buckets": 4096, "width": 256, "drop_rate": 0.5},
            "augment": {},
        }


def _columns(path: str, entries: Sequence[Any]) -> tuple[str, str]:
    """Which columns of a table hold texts and labels: by their names, or the two that there are."""
    if all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
        return "text", "label"
    columns = sorted({key for entry in entries if isinstance(entry, Mapping) for key in entry if key})
    if found := named_columns(columns):
        return found
    raise MetashotError(
        f"{path}: which columns are texts and labels? (there are {tables.named(columns) or 'none'}): name "
        f"them {TEXT[0]} and {LABEL[0]}; a table of series has id, label and columns of numbers"
    )


def named_columns(columns: Sequence[str]) -> tuple[str, str] | None:
    """Which columns are texts and labels by their names: both, or one of the two that there are."""
    columns = [column for column in dict.fromkeys(columns) if not tables.INDEX.fullmatch(column)]
    text, label = (
        next((column for name in names for column in columns if column.lower() == name), None)
        for names in (TEXT, LABEL)
    )
    if len(columns) == 2 and bool(text) != bool(label):
        (other,) = {*columns} - {text, label}
        return text or other, label or other
    return (text, label) if text and label else None


def _rows(parts: Mapping[str, int]) -> str:
    """How many rows are in each part; where there are many parts, in all."""
    if len(parts) > PARTS:
        return f"{sum(parts.values()):,} in {len(parts):,} files or parts"
    return ", ".join(f"{number:,} in {part}" for part, number in parts.items())
