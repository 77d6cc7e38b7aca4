"""Texts as bags of hashed n-grams: words, runs of words and pieces of words.

As fastText has them (Bojanowski et al. 2017, arXiv:1607.04606, section 3.2; Joulin et al. 2017,
arXiv:1607.01759, section 2.1): a word is marked at both ends, ``<card>``, its pieces are all substrings of
certain lengths, ``<ca car ard rd>``, and what was never seen in training still shares pieces with what was.
Here nothing is looked up in a vocabulary. An n-gram is its hash, and a network folds the hashes into a table
of its own size.
"""

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from metashot.data import Form
from metashot.data.kinds.base import Use, described
from metashot.section import Section

_WORD = re.compile(r"\w+|[^\w\s]")  # a mark of punctuation is a word of its own


USE = Use(
    noun="text",
    column="text",
    holds="a text",
    prepared="Case and spaces do not count. The model goes by words and pieces of words: it knows no "
    "synonyms but those that training showed it.",
    suffixes=frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"}),
    formats="txt, csv, tsv, json, jsonl, ndjson, parquet",
    merged=True,
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """How texts become n-grams: the keys of ``prepare`` that every source of texts has.

    Attributes:
        length: N-grams of a text that count; of a longer text the first, whole words before pieces.
        words: Words in the longest run of words; 1 for no runs.
        shortest: Characters in the shortest piece of a word, its marks counted.
        longest: In the longest; 0 for no pieces.
    """

    rotations: ClassVar[bool] = False

    length: int
    words: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        for key, most in (("length", 100_000), ("words", 10), ("shortest", 100)):
            if not 1 <= (value := getattr(self, key)) <= most:
                raise ValueError(f"{key}: {value} is not between 1 and {most:,}")
        if self.longest and not self.shortest <= self.longest <= 100:
            raise ValueError(f"longest: {self.longest} is neither 0 nor between shortest and 100")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        decoding = {"words": self.words, "shortest": self.shortest, "longest": self.longest}
        return Form("texts", (self.length,), "int32", decoding)


def decode(content: bytes, form: Form) -> tuple[NDArray[np.int32], bytes]:
    """A text in UTF-8 as the numbers ``[length]`` of its n-grams, and a digest of the text.

    Numbers are 1 to 2**31 - 1, half of the CRC-32 of the n-gram, the same on every machine; 0 is padding.

    Raises ValueError for what is not UTF-8, and for a text without a character.
    """
    text = normalised(content.decode())
    if not text:
        raise ValueError("empty")
    numbers = np.zeros(form.shape, np.int32)
    for place, ngram in zip(range(len(numbers)), ngrams(text, **form.decoding), strict=False):
        numbers[place] = zlib.crc32(ngram.encode()) >> 1 or 1
    return numbers, digest(text)


def ngrams(text: str, words: int, shortest: int, longest: int) -> Iterator[str]:
    """N-grams of a normalised text, as often as they are in it.

    Args:
        text: As `normalised` returns it.
        words: Runs of up to so many words.
        shortest: Pieces of words of at least so many characters.
        longest: And at most so many.
    """
    marked = [f"<{word}>" for word in _WORD.findall(text)]
    for size in range(1, words + 1):
        for start in range(len(marked) - size + 1):
            yield " ".join(marked[start : start + size])
    for word in marked:
        for size in range(shortest, min(longest, len(word) - 1) + 1):  # less than the word, which was there
            for start in range(len(word) - size + 1):
                yield word[start : start + size]


def normalised(text: str) -> str:
    """A text with one way to write what reads alike: Unicode NFKC, no case, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def digest(text: str) -> bytes:
    """16 bytes that stand for a normalised text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def served(value: object, form: Form) -> NDArray[np.int32]:
    """A text as the numbers of its n-grams; see `decode`. Raises ValueError for what is not a text."""
    return decode(text_of(value), form)[0]


def text_of(value: object) -> bytes:
    """A text out of a table, in UTF-8. Raises ValueError for what is not a text."""
    if not isinstance(value, str):
        raise ValueError(f"{described(value)}: give a text")  # noqa: TRY004 - a mistake in the table
    return value.encode()
