"""TF-IDF of a text's n-grams, weighted by how rare they are in the training split, hashed to one width."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metashot.errors import MetashotError
from metashot.learning.models.backbones.base import Backbone, Params

BUCKETS = 2**18  # of document frequencies
WIDTH = 2**13
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
    frequencies are counted in `BUCKETS`.
    """

    idf: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 1:
            raise MetashotError(f"TF-IDF takes numbered n-grams, not samples of shape {list(shape)}")
        self.features = WIDTH
        self.register_buffer("idf", torch.ones(BUCKETS))

    def fit(self, samples: Iterable[Tensor]) -> None:
        """Count the texts that each n-gram is in."""
        texts, counts = 0, torch.zeros(BUCKETS, dtype=torch.int64, device=self.idf.device)
        for chunk in samples:
            buckets = torch.where(chunk == 0, BUCKETS, _mixed(chunk) % BUCKETS).sort(dim=1).values
            counts += torch.bincount(buckets[_first(buckets)], minlength=BUCKETS + 1)[:BUCKETS]
            texts += len(chunk)
        self.idf.copy_(1 + ((1 + texts) / (1 + counts.double())).log())

    def forward(self, x: Tensor, stats_rows: int | None = None) -> Tensor:
        """Numbered n-grams ``[M, length]``, 0 for none, to features ``[M, WIDTH]``."""
        ngrams = x.long().sort(dim=1).values
        times = torch.searchsorted(ngrams, ngrams, right=True) - torch.searchsorted(ngrams, ngrams)
        mixed = _mixed(ngrams)
        weights = (1 + times.to(self.idf).log()) * self.idf[mixed % BUCKETS] * (ngrams != 0) * _first(ngrams)
        places, signs = (mixed >> 13) % WIDTH, 1 - 2 * (mixed >> 31)
        hashed = weights.new_zeros(len(x), WIDTH).scatter_add(1, places, signs * weights)
        return F.normalize(hashed)


def _mixed(ngrams: Tensor) -> Tensor:
    """32 bits of each number: a CRC-32 is linear, so that n-grams which differ alike would collide alike."""
    product = ngrams.long() * MIXING & 0xFFFFFFFF
    return (product ^ product >> 15) * MIXING & 0xFFFFFFFF


def _first(ordered: Tensor) -> Tensor:
    """Where a number in rows in order ``[M, length]`` is the first of its like."""
    return ordered != F.pad(ordered, (1, 0), value=-1)[:, :-1]
