"""Edits of params.yaml that keep every other character as it was, comments included."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import CollectionNode

from metashot import plain_yaml
from metashot.errors import MetashotError

LINE = 110  # characters that a written line may have
WORD = re.compile(r"\w+")


def edited(text: str, key: str, value: Any) -> str:
    """Return the text of a params.yaml with ``key`` (dotted) set to ``value``, every other character kept.

    Raises:
        MetashotError: The text cannot be edited in place, for example because ``key`` lies behind an alias.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    *parents, last = key.split(".")
    try:
        before = plain_yaml.load(text, "params.yaml")
        node = YAML().compose(text)
        for part in parents:
            node = next(child for name, child in node.value if name.value == part)
        present = [(name, child) for name, child in node.value if name.value == last]
        if not present:
            new = _insert(text, node, last, value)
        elif _is_block(present[0][1]):
            name, child = present[0]
            indent = name.start_mark.column
            new = text[: name.start_mark.index] + _entry(last, value, indent) + text[_end(child) :]
        else:
            child = present[0][1]
            new = text[: child.start_mark.index] + _flow(value) + text[child.end_mark.index :]
        if plain_yaml.load(new, "params.yaml") == _set(before, (*parents, last), value):
            return mark + new
    except (YAMLError, MetashotError, StopIteration, TypeError, IndexError):  # an alias, or not a mapping
        pass
    raise MetashotError(f"params.yaml: {key} cannot be edited automatically: set it to {_flow(value)}")


def _set(section: Any, key: Sequence[str], value: Any) -> Any:
    """Return a copy of a section with a key below it set; other places that share it by an alias keep it."""
    if not key:
        return value
    return {**section, key[0]: _set(section.get(key[0]), key[1:], value)}


def _insert(text: str, node: Any, key: str, value: Any) -> str:
    """Return the text with a key added at the end of a mapping."""
    end = _end(node)
    if node.flow_style:
        comma = ", " if node.value else ""
        end = _end(node.value[-1][1]) if node.value else node.end_mark.index - 1
        return f"{text[:end]}{comma}{_flow(key)}: {_flow(value)}{text[end:]}"
    end += len(text[end:].partition("\n")[0])  # past the comment on the last key
    indent = node.value[0][0].start_mark.column
    return f"{text[:end]}\n{' ' * indent}{_entry(key, value, indent)}{text[end:]}"


def _end(node: Any) -> int:
    """Return where the last scalar of a node ends; a block's own end mark is where the next node begins."""
    while _is_block(node):
        node = node.value[-1][1] if isinstance(node.value[-1], tuple) else node.value[-1]
    return int(node.end_mark.index)


def _is_block(node: Any) -> bool:
    return isinstance(node, CollectionNode) and not node.flow_style


def _entry(key: str, value: Any, indent: int) -> str:
    """Return a key with its value as YAML: on one line where it fits, otherwise one line for each child."""
    line = f"{_flow(key)}: {_flow(value)}"
    if not isinstance(value, Mapping) or indent + len(line) <= LINE:
        return line
    indent += 2
    children = (_entry(name, child, indent) for name, child in value.items())
    return "\n".join([f"{_flow(key)}:", *(f"{' ' * indent}{child}" for child in children)])


def _flow(value: Any) -> str:
    """Return a value as one line of YAML: JSON without needless quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and WORD.fullmatch(value) and isinstance(YAML(typ="safe").load(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)
