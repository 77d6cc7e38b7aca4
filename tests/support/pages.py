"""README.md, CONTRIBUTING.md and docs/ as tests read them: fenced blocks, inline code, links and headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from project import ROOT

MARK = re.compile(r"<!-- (sketch|tested by): (.+?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Path from the root of the repository.
        line: Number of the line with the opening fence.
        language: Word behind the fence.
        text: What is between the fences.
        sketch: Why nothing runs it; empty if something does.
        tested_by: The test that runs it, ``FILE`` or ``FILE::FUNCTION``; empty for the tests of all pages.
    """

    page: str
    line: int
    language: str
    text: str
    sketch: str = ""
    tested_by: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Its commands, if it is in sh or console, and what a console shows of each."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            return [
                (command, shown)
                for command, _, shown in (step.partition("\n") for step in re.split(r"(?m)^\$ ", text)[1:])
            ]
        return [(command, "") for line in text.splitlines() if (command := without_comment(line))]


class Page:
    """A page in Markdown.

    Args:
        name: Path from the root of the repository.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_text()
        self.tokens = MarkdownIt().enable("table").parse(self.text)

    def __str__(self) -> str:
        return self.name

    def blocks(self) -> Iterator[Block]:
        """Every fenced block. A mark just above it is its own; one just below the title is of all others."""
        whole = _mark(self.tokens[3]) if len(self.tokens) > 3 and self.tokens[0].tag == "h1" else {}
        for before, token in zip(self.tokens, self.tokens[1:], strict=False):
            if token.type == "fence":
                assert token.map
                yield Block(
                    self.name,
                    token.map[0] + 1,
                    token.info,
                    token.content,
                    **_mark(before) or whole,
                )

    def _inline(self) -> Iterator[Token]:
        for token in self.tokens:
            yield from token.children or []

    @property
    def spans(self) -> list[str]:
        """Inline code."""
        return [token.content for token in self._inline() if token.type == "code_inline"]

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures."""
        found = [token.attrs.get("href") or token.attrs.get("src") for token in self._inline()]
        return [str(target) for target in found if target]

    @property
    def anchors(self) -> set[str]:
        """Of each heading, as GitHub makes them."""
        titles = [
            token.content
            for before, token in zip(self.tokens, self.tokens[1:], strict=False)
            if before.type == "heading_open"
        ]
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _mark(token: Token) -> dict[str, str]:
    found = MARK.search(token.content) if token.type == "html_block" else None
    return {found[1].replace(" ", "_"): " ".join(found[2].split())} if found else {}


def without_comment(line: str) -> str:
    """A line of sh without the comment at its end."""
    return re.sub(r"(^|\s+)#\s.*$", "", line).strip()


def words(command: str) -> list[list[str]]:
    """The words of each simple command in a line of sh, without the variables that are set before it."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    simple: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            simple.append([])
        elif simple[-1] or not re.match(r"\w+=", word):
            simple[-1].append(word)
    return [line for line in simple if line]


def with_part(params: dict[str, Any], part: str) -> dict[str, Any]:
    """The content of a params.yaml with a part of one in its place: keys of a data set, setting or method,
    or of the whole file, replace those that are there."""
    merged = {**params}
    for section, value in yaml.safe_load(part).items():
        if section in ("data", "setting", "method"):
            named = {**params[section]}
            for name, keys in value.items():
                named[name] = {**named.get(name, {}), **keys}
            value = named
        merged[section] = value
    return merged


PAGES = [
    Page(str(path.relative_to(ROOT)))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
]
BLOCKS = [block for page in PAGES for block in page.blocks()]
