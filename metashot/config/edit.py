"""Edits of params.yaml that leave every other character as it was."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode

from metashot import plain_yaml
from metashot.errors import MetashotError

LINE = 110  # characters of a line that is written
WORD = re.compile(r"\w+")


def edited(text: str, key: str, value: Any) -> str:
    """The text of a params.yaml with the section ``key`` (dotted) set, every other character as it was.

    Raises:
        MetashotError: It is written in a way that this cannot be done in.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    *above, last = key.split(".")
    try:
        before = plain_yaml.load(text, "params.yaml")
        node = YAML().compose(text)
        for part in above:
            node = next(child for name, child in node.value if name.value == part)
        there = [(name, child) for name, child in node.value if name.value == last]
        if not there:
            new = _inserted(text, node, last, value)
        elif _is_block(there[0][1]):
            name, child = there[0]
            indent = name.start_mark.column
            new = text[: name.start_mark.index] + _written(last, value, indent) + text[_end(child) :]
        else:
            child = there[0][1]
            new = text[: child.start_mark.index] + _flow(value) + text[child.end_mark.index :]
        if plain_yaml.load(new, "params.yaml") == _set(before, (*above, last), value):
            return mark + new
    except (YAMLError, MetashotError, StopIteration, TypeError, IndexError):  # an alias, or no mapping
        pass
    raise MetashotError(
        f"params.yaml: {key} cannot be set in the way it is written: set it to {_flow(value)}"
    )


def _set(section: Any, key: Sequence[str], value: Any) -> Any:
    """A copy of a section with a key below it set; what is the same elsewhere, by an alias, stays."""
    if not key:
        return value
    return {**section, key[0]: _set(section.get(key[0]), key[1:], value)}


def _inserted(text: str, node: Any, key: str, value: Any) -> str:
    """The text with a key behind the last of a mapping."""
    end = _end(node)
    if node.flow_style:
        comma = ", " if node.value else ""
        end = _end(node.value[-1][1]) if node.value else node.end_mark.index - 1
        return f"{text[:end]}{comma}{_flow(key)}: {_flow(value)}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # behind the last one's comment
    indent = node.value[0][0].start_mark.column
    return f"{text[:end]}\n{' ' * indent}{_written(key, value, indent)}{text[end:]}"


def _end(node: Any) -> int:
    """Where the last thing in a node ends; a block's own end is where the next thing begins."""
    while _is_block(node):
        node = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return int(node.end_mark.index)


def _is_block(node: Any) -> bool:
    return isinstance(node, CollectionNode) and not node.flow_style


def _written(key: str, value: Any, indent: int) -> str:
    """A key with its value: in one line where it fits, otherwise one for each part."""
    line = f"{_flow(key)}: {_flow(value)}"
    if not isinstance(value, Mapping) or indent + len(line) <= LINE:
        return line
    inside = indent + 2
    parts = (_written(part, child, inside) for part, child in value.items())
    return "\n".join([f"{_flow(key)}:", *(f"{' ' * inside}{part}" for part in parts)])


def _flow(value: Any) -> str:
    """A value in one line of YAML, which is JSON without needless quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and WORD.fullmatch(value) and isinstance(YAML(typ="safe").load(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)
