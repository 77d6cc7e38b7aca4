"""The terminal, to which text of any origin may be written: nothing in it acts on the terminal."""

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from metashot.errors import printable


class Terminal(Console):
    """A console that shows a string as it is and in one line: no markup, no emoji codes, `printable`.

    Our own text of several lines is a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it is to be shown."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return what is to be written for a renderable, whatever it is made of."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def as_json(value: Any) -> str:
    """Return a value as JSON that passes through any encoding, and does nothing to a terminal."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
