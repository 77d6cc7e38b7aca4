"""TF-IDF against scikit-learn's, and hashing against its theory."""

import re
from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from metashot.data.kinds import texts
from metashot.errors import MetashotError
from metashot.learning.models.backbones import tfidf
from metashot.learning.models.backbones.tfidf import Tfidf

WORDS = re.sub(r"\W+", " ", __doc__ + texts.__doc__ + tfidf.__doc__ + (Tfidf.__doc__ or "")).lower().split()
PREPARE = texts.Prepare(length=256, words=2, shortest=3, longest=5)


def drawn(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(count)]


def decoded(many: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([texts.decode(text.encode(), PREPARE.form)[0] for text in many]))


def test_inner_products_are_those_of_scikit_learn_but_for_collisions() -> None:
    train, new = drawn(200, 0), [*drawn(60, 1), "zyx zyx wholly-unseen", "zyx"]
    network = Tfidf((PREPARE.length,))
    network.fit([decoded(train[:90]), decoded(train[90:])])
    features = network(decoded(new)).double().numpy()
    ngrams = {text: [*texts.ngrams(texts.normalised(text), **PREPARE.form.decoding)] for text in train + new}
    # With a vocabulary, scikit-learn gives what is not in the texts of `fit` its largest weight too
    exact = TfidfVectorizer(
        analyzer=ngrams.__getitem__, vocabulary={*chain(*ngrams.values())}, sublinear_tf=True
    )
    vectors = exact.fit(train).transform(new).toarray()
    differences = np.abs(features @ features.T - vectors @ vectors.T)
    assert differences.max() < 0.1
    assert differences.mean() < 0.01
    np.testing.assert_allclose((features**2).sum(1), 1, rtol=1e-5)


def test_document_frequencies_are_those_of_texts_not_of_occurrences() -> None:
    network = Tfidf((4,))
    network.fit([torch.tensor([[5, 5, 5, 0], [5, 9, 0, 0]]), torch.tensor([[9, 7, 9, 7]])])
    for number, count in ((5, 2), (7, 1), (9, 2), (11, 0)):
        for table, place in zip(network.idf, tfidf._places(torch.tensor(number)), strict=True):
            assert table[place] == pytest.approx(1 + np.log(4 / (1 + count)))


def test_what_occurs_often_counts_by_its_logarithm_and_order_does_not() -> None:
    network = Tfidf((4,))
    once, thrice = network(torch.tensor([[5, 9, 0, 0], [5, 9, 5, 5]]))
    assert torch.equal(thrice, network(torch.tensor([[5, 5, 9, 5]]))[0])
    places = once.nonzero().flatten()
    assert len(places) == 2
    ratio = thrice[places].abs().sort().values
    assert float(ratio[1] / ratio[0]) == pytest.approx(1 + np.log(3))


def test_hashing_is_even_and_its_signs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of n-grams that differ in one letter as well: a CRC-32 alone sends them to few places."""
    monkeypatch.setattr(tfidf, "WIDTH", 2**12)
    form = texts.Prepare(length=1, words=1, shortest=3, longest=0).form
    words = [
        f"{first}{second}{third}" for first in "abcdefgh" for second in "abcdefgh" for third in range(99)
    ]
    numbers = torch.from_numpy(np.concatenate([texts.decode(word.encode(), form)[0] for word in words]))
    features = Tfidf((1,))(numbers[:, None])
    assert abs(float(features.sum(1).mean())) < 3 / len(words) ** 0.5
    assert torch.equal(features.abs().sum(1), torch.ones(len(words)))
    counts = features.abs().sum(0)
    share = len(words) / tfidf.WIDTH
    assert float(counts.var()) == pytest.approx(share, rel=0.1)  # Poisson


def test_other_samples_than_texts_are_refused() -> None:
    with pytest.raises(MetashotError, match="TF-IDF takes numbered n-grams"):
        Tfidf((1, 28, 28))
