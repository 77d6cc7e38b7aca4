"""Safe output to a terminal: untrusted text is shown, and cannot control it."""

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from metashot.errors import printable


class Terminal(Console):
    """A console that shows strings literally and in one line: `printable`, without markup and emoji codes.

    Trusted text of several lines is a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it is shown."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of a renderable, with printable text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def as_json(value: Any) -> str:
    """Return a value as JSON in printable ASCII."""
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
