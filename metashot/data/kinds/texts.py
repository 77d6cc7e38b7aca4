"""Texts as bags of hashed n-grams: words, runs of words and character n-grams of words.

As in fastText (Bojanowski et al. 2017, arXiv:1607.04606, section 3.2; Joulin et al. 2017, arXiv:1607.01759,
section 2.1): words are marked at both ends, ``<card>``; their character n-grams are all substrings of certain
lengths, ``<ca car ard rd>``, so that an unseen word shares some with words seen in training. There is no
vocabulary: an n-gram is represented by its hash, which a network reduces to the size of its embedding table.
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

_WORD = re.compile(r"\w+|[^\w\s]")  # a punctuation mark counts as a word
FEATURES: tuple[str, ...] = ("tfidf",)


USE = Use(
    noun="text",
    column="text",
    holds="a text",
    prepared="Case and spaces do not matter. The model compares words and parts of words; it knows only the "
    "synonyms that it learned in training.",
    suffixes=frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"}),
    formats="txt, csv, tsv, json, jsonl, ndjson, parquet",
    merged=True,
)


@dataclass(frozen=True, kw_only=True)
class Prepare(Section):
    """Extraction of n-grams from texts: the keys of ``prepare`` that all sources of texts share.

    Attributes:
        length: Maximum number of n-grams of a text; longer texts are cut, character n-grams first.
        words: Words in the longest run of words; 1 for single words only.
        shortest: Characters in the shortest character n-gram, end marks included.
        longest: Characters in the longest; 0 for no character n-grams.
    """

    rotations: ClassVar[bool] = False

    length: int
    words: int
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        for key, largest in (("length", 100_000), ("words", 10), ("shortest", 100)):
            if not 1 <= (value := getattr(self, key)) <= largest:
                raise ValueError(f"{key}: {value} is not between 1 and {largest:,}")
        if self.longest and not self.shortest <= self.longest <= 100:
            raise ValueError(f"longest: {self.longest} is neither 0 nor between shortest and 100")

    @property
    def form(self) -> Form:
        """See `sources.Prepare`."""
        decoding = {"words": self.words, "shortest": self.shortest, "longest": self.longest}
        return Form("texts", (self.length,), "int32", decoding)


def decode(content: bytes, form: Form) -> tuple[NDArray[np.int32], bytes]:
    """Hashes ``[length]`` of the n-grams of a text in UTF-8, and a digest of the text.

    A hash is the upper 31 bits of the CRC-32 of the n-gram, at least 1; 0 is padding.

    Raises ValueError if the content is not UTF-8, or blank.
    """
    text = normalised(content.decode())
    if not text:
        raise ValueError("empty")
    hashes = np.zeros(form.shape, np.int32)
    for position, ngram in zip(range(len(hashes)), ngrams(text, **form.decoding), strict=False):
        hashes[position] = zlib.crc32(ngram.encode()) >> 1 or 1
    return hashes, digest(text)


def ngrams(text: str, words: int, shortest: int, longest: int) -> Iterator[str]:
    """N-grams of a text, repeated as often as they occur: runs of words, then character n-grams.

    Args:
        text: A text as `normalised` returns it.
        words: Words in the longest run.
        shortest: Characters in the shortest character n-gram.
        longest: Characters in the longest.
    """
    marked = [f"<{word}>" for word in _WORD.findall(text)]
    for size in range(1, words + 1):
        for start in range(len(marked) - size + 1):
            yield " ".join(marked[start : start + size])
    for word in marked:
        for size in range(shortest, min(longest, len(word) - 1) + 1):  # shorter than the word itself
            for start in range(len(word) - size + 1):
                yield word[start : start + size]


def normalised(text: str) -> str:
    """Normalise a text: Unicode NFKC, case folded, single spaces."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def digest(text: str) -> bytes:
    """Digest of a normalised text, 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def served(value: object, form: Form) -> NDArray[np.int32]:
    """Hashes of the n-grams of a text, as in `decode`. Raises ValueError for other types."""
    return decode(text_of(value), form)[0]


def text_of(value: object) -> bytes:
    """UTF-8 of a text in a table. Raises ValueError for other types."""
    if not isinstance(value, str):
        raise ValueError(f"{described(value)}: give a text")  # noqa: TRY004 - a mistake in the table
    return value.encode()
