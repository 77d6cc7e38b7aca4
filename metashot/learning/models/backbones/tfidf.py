"""TF-IDF of a text's n-grams, weighted by how rare they are in the training split, hashed to one width."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params

TABLES = 4  # of document frequencies
BUCKETS = 2**18  # of a table
WIDTH = 2**16
MIXING = 0x9E3779B1  # 2^32 divided by the golden ratio, and prime: Knuth's multiplicative hashing


@dataclass(frozen=True, kw_only=True)
class TfidfParams(Params):
    """Parameters of `Tfidf`: none."""

    fixed: ClassVar[bool] = True

    name: Literal["tfidf"]

    def build(self, shape: tuple[int, ...]) -> Backbone:
        """See `Params.build`."""
        return Tfidf(shape)


class Tfidf(Backbone):
    """Hashed TF-IDF, of length 1: see `metashot.data.kinds.texts` for the n-grams.

    An n-gram that occurs c times in a text, and in d of the M training texts, weighs 1 + log c times 1 +
    log((1 + M) / (1 + d)); one that training never saw weighs most. Signed feature hashing (Weinberger et al.
    2009, arXiv:0902.2206) adds the weights up, so that inner products are right on average. Document
    frequencies are the least of several tables' counts (the count-min sketch of Cormode and Muthukrishnan
    2005, doi:10.1016/j.jalgor.2003.12.001).
    """

    idf: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 1:
            raise MetashotError(f"TF-IDF takes numbered n-grams, not samples of shape {list(shape)}")
        self.features = WIDTH
        self.register_buffer("idf", torch.ones(TABLES, BUCKETS))

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Count the texts that each n-gram is in."""
        texts, counts = 0, torch.zeros(self.idf.shape, dtype=torch.int64, device=self.idf.device)
        for chunk in samples:
            for table, places in enumerate(_places(chunk.long())):
                buckets = torch.where(chunk == 0, BUCKETS, places).sort(dim=1).values
                first = buckets[_first(buckets)]
                counts[table] += torch.bincount(first, minlength=BUCKETS + 1)[:BUCKETS]
            texts += len(chunk)
        self.idf.copy_(1 + ((1 + texts) / (1 + counts.double())).log())

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Numbered n-grams ``[M, length]``, 0 for none, to features ``[M, WIDTH]``."""
        ngrams = x.long().sort(dim=1).values
        times = torch.searchsorted(ngrams, ngrams, right=True) - torch.searchsorted(ngrams, ngrams)
        idf = torch.stack([table[places] for table, places in zip(self.idf, _places(ngrams), strict=True)])
        weights = (1 + times.to(idf).log()) * idf.amax(0) * (ngrams != 0) * _first(ngrams)
        mixed = _mixed(ngrams)
        places, signs = (mixed >> 13) % WIDTH, 1 - 2 * (mixed >> 31)
        hashed = weights.new_zeros(len(x), WIDTH).scatter_add(1, places, signs * weights)
        return F.normalize(hashed)


def _places(ngrams: Tensor) -> list[Tensor]:
    """Bucket of each number in each table."""
    places = []
    for _ in range(TABLES):
        ngrams = _mixed(ngrams + 1)
        places.append(ngrams % BUCKETS)
    return places


def _mixed(ngrams: Tensor) -> Tensor:
    """32 bits of each number: a CRC-32 is linear, so that n-grams which differ alike would collide alike."""
    product = ngrams.long() * MIXING & 0xFFFFFFFF
    return (product ^ product >> 15) * MIXING & 0xFFFFFFFF


def _first(ordered: Tensor) -> Tensor:
    """Where a number in rows in order ``[M, length]`` is the first of its like."""
    return ordered != F.pad(ordered, (1, 0), value=-1)[:, :-1]
