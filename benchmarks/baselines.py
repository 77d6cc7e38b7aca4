"""What scikit-learn reaches on the same frozen episodes as metashot's models: `make baselines`.

An implementation of its own, in an environment without torch: it takes from metashot which samples an episode
consists of and what lies in the raw files. Features come from scikit-learn, scikit-image, aeon and scipy,
classifiers from scikit-learn, with settings that people start with; nothing is chosen on the test. What
features take from data, as document frequencies, comes from the training split.

    python -m benchmarks.baselines [--episodes N] [<data set>-<setting> ...]

prints a Markdown table for each data set and setting that was evaluated, or for those named, and for each of
its test manifests: the accuracy of every baseline, and the champion's lead over it, paired by episode.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile
from aeon.transformations.collection.convolution_based import MiniRocket
from numpy.typing import NDArray
from scipy import fft, signal, sparse, stats
from skimage.feature import hog
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from metashot.config import params
from metashot.data import store
from metashot.data.kinds import KINDS
from metashot.data.sources import SOURCES
from metashot.data.store import SampleSet
from metashot.learning.models.episodes import Manifest, load_manifest
from metashot.learning.statistics import mean_and_interval, paired

Matrix = Any  # [M, D], dense or sparse
Features = Callable[
    [list[Any], list[Any]], Matrix
]  # of the samples to test, given those of the training split

STEPS = 24  # that sounds and series are stretched to
CLASSIFIERS: Mapping[str, Callable[[], Any]] = {
    "ridge": partial(RidgeClassifier, alpha=1.0),
    "logistic regression": partial(LogisticRegression, max_iter=1000),
    "1-NN": partial(KNeighborsClassifier, 1),
    "random forest": partial(RandomForestClassifier, 100, random_state=0),
}


def tfidf(train: list[bytes], test: list[bytes], **how: Any) -> Matrix:
    """TF-IDF of texts."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, **how).fit([text.decode() for text in train])
    return vectorizer.transform([text.decode() for text in test])


def stretched(sequence: NDArray[Any]) -> NDArray[Any]:
    """A sequence ``[C, T]`` at `STEPS` times, in a row."""
    places = np.linspace(0, sequence.shape[1] - 1, STEPS)
    return np.concatenate([np.interp(places, np.arange(len(row)), row) for row in sequence])


def mfcc(content: bytes, coefficients: int = 13) -> NDArray[Any]:
    """Mel-frequency cepstral coefficients ``[13, T]`` of a sound without the silence around it."""
    sound, rate = soundfile.read(BytesIO(content), dtype="float64", always_2d=True)
    sound = sound.mean(1)
    window = round(0.025 * rate)
    *_, spectrum = signal.stft(sound, rate, nperseg=window, noverlap=window - round(0.01 * rate), nfft=1024)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, 42) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, spectrum.shape[0])
    bank = np.stack([np.interp(frequencies, edges[i : i + 3], (0, 1, 0), 0, 0) for i in range(40)])
    power = bank @ np.abs(spectrum) ** 2
    loud = np.flatnonzero(power.sum(0) > power.sum(0).max() * 1e-3)
    power = power[:, loud[0] : loud[-1] + 1]
    return fft.dct(np.log(power + 1e-10), axis=0, norm="ortho")[:coefficients]


def statistics(sequence: NDArray[Any]) -> NDArray[Any]:
    """Moments, quantiles and changes of each channel of a sequence ``[C, T]``, in a row."""
    change = np.diff(sequence, axis=1)
    parts = [sequence.mean(1), sequence.std(1), *np.quantile(sequence, (0, 0.25, 0.5, 0.75, 1), axis=1)]
    parts += [change.mean(1), change.std(1), np.abs(change).mean(1)]
    with np.errstate(all="ignore"):  # of constant channels
        parts += [
            np.nan_to_num(stats.skew(sequence, axis=1)),
            np.nan_to_num(stats.kurtosis(sequence, axis=1)),
        ]
    return np.concatenate(parts)


def scaled(of: Callable[[Any], NDArray[Any]], train: list[Any], test: list[Any]) -> Matrix:
    """Features of each sample by itself, standardised by the training split."""
    scaler = StandardScaler().fit(np.stack([of(sample) for sample in train]))
    return scaler.transform(np.stack([of(sample) for sample in test]))


def rocket(train: list[NDArray[Any]], test: list[NDArray[Any]]) -> Matrix:
    """MiniRocket of series, standardised by the training split."""
    length = max(9, *(series.shape[1] for series in [*train, *test]))

    def padded(series: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack([np.pad(s, ((0, 0), (0, length - s.shape[1]))) for s in series]).astype(np.float32)

    transformer = MiniRocket(random_state=0).fit(padded(train))
    scaler = StandardScaler().fit(transformer.transform(padded(train)))
    return scaler.transform(transformer.transform(padded(test)))


def gradients(picture: NDArray[Any]) -> NDArray[Any]:
    """HOG of a picture ``[C, H, W]``."""
    cell = max(4, picture.shape[1] // 8)
    return np.asarray(hog(picture, 9, (cell, cell), (2, 2), channel_axis=0))


def colours(picture: NDArray[Any]) -> NDArray[Any]:
    """Histograms of each channel of a picture ``[C, H, W]``."""
    return np.concatenate([np.histogram(channel, 16, (0, 256))[0] for channel in picture]) / picture[0].size


def each(of: Callable[[Any], NDArray[Any]], train: list[Any], test: list[Any]) -> Matrix:
    """Features of each sample by itself."""
    return np.stack([of(sample) for sample in test])


def unit(train: list[Any], test: list[Any]) -> Matrix:
    """Vectors of length 1."""
    return normalize(np.stack(test))


def mfcc_of(of: Callable[[NDArray[Any]], NDArray[Any]], content: bytes) -> NDArray[Any]:
    """What ``of`` makes of a sound's MFCC."""
    return of(mfcc(content))


CHARACTERS = partial(tfidf, analyzer="char_wb", ngram_range=(2, 5))
BASELINES: Mapping[str, Mapping[str, tuple[Features, tuple[str, ...]]]] = {
    "texts": {
        "TF-IDF of characters": (CHARACTERS, ("ridge", "logistic regression")),
        "TF-IDF of words": (partial(tfidf, ngram_range=(1, 2)), ("ridge", "logistic regression")),
    },
    "sounds": {
        "MFCC, statistics": (
            partial(scaled, partial(mfcc_of, statistics)),
            ("ridge", "logistic regression", "random forest"),
        ),
        "MFCC, stretched": (partial(scaled, partial(mfcc_of, stretched)), ("ridge", "1-NN")),
    },
    "series": {
        "statistics": (partial(scaled, statistics), ("ridge", "1-NN", "random forest")),
        "values, stretched": (partial(scaled, stretched), ("ridge", "1-NN")),
        "MiniRocket": (rocket, ("ridge",)),
    },
    "images": {
        "pixels": (partial(each, np.ravel), ("ridge", "1-NN")),
        "HOG": (partial(each, gradients), ("ridge", "logistic regression", "1-NN")),
        "colour histograms": (partial(each, colours), ("ridge", "random forest")),
    },
    "vectors": {
        "vectors": (partial(each, np.ravel), ("logistic regression",)),
        "vectors of length 1": (unit, ("ridge", "logistic regression", "1-NN")),
    },
}


def raw(dataset: str, sets: Mapping[str, SampleSet]) -> dict[str, list[Any]]:
    """Texts, sounds and series of a data set as the raw files have them, by split, in the order of the store.

    Samples that preprocessing dropped, because another split has them too, are told by their digests.
    """
    path, form = Path("params.yaml"), sets["test"].form
    source = SOURCES[params.read(path, "", params.File).data[dataset].source]
    prepare = params.read(path, f"data.{dataset}.prepare", source.Prepare)
    table = pq.ParquetFile(f"data/processed/{dataset}.parquet").read(columns=["digest", "class", "split"])
    rows = zip(*(table[name].to_pylist() for name in ("split", "class", "digest")), strict=True)
    kept: dict[str, list[Any]] = {split: [] for split in sets}
    row = next(rows, None)
    for item in source.items(prepare, Path(f"data/raw/{dataset}")):
        content = item.read()
        if (item.key.split, item.key.path, KINDS[form.kind].decode(content, form)[1]) == row:
            series = form.kind == "series"
            kept[item.key.split].append(
                np.frombuffer(content, "<f8").reshape(form.shape[0], -1) if series else content
            )
            row = next(rows, None)
    assert row is None, f"{row} of the store of {dataset} is not among its raw files"
    return kept


def accuracies(features: Matrix, classifier: Callable[[], Any], manifest: Manifest) -> NDArray[np.float64]:
    """Accuracy of a classifier in each episode, fitted to its support set: ``[E]``."""
    support_labels = np.repeat(np.arange(manifest.n_way), manifest.k_shot)
    query_labels = np.repeat(np.arange(manifest.n_way), manifest.n_query)
    rows = zip(manifest.support, manifest.query, strict=True)
    return np.array(
        [
            classifier().fit(features[s.ravel()], support_labels).score(features[q.ravel()], query_labels)
            for s, q in rows
        ]
    )


def table(group: str, episodes: int) -> str:
    """The Markdown table of a data set and setting."""
    dataset, _, setting = group.partition("-")
    path = Path(f"data/processed/{dataset}.parquet")
    sets = {split: store.load(path, split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    kind, colour = sets["test"].form.kind, sets["test"].form.shape[0] == 3
    known = BASELINES.get(kind, BASELINES["vectors"])
    from_files = kind in ("texts", "sounds", "series")
    samples = raw(dataset, sets) if from_files else {k: list(v.samples) for k, v in sets.items()}
    champion = json.loads(Path(f"reports/{group}-gate.json").read_text())["champion"]["method"]
    counts = pq.read_table(f"results/{group}/{champion}/episodes.parquet").to_pylist()
    lines = [
        f"**{group}**, champion {champion}",
        "",
        "| episodes | features | classifier | accuracy | champion | champion's lead |",
        "|:--|:--|:--|--:|--:|--:|",
    ]
    matrices = {
        name: of(samples["train"], samples["test"])
        for name, (of, _) in known.items()
        if colour or not name.startswith("colour")
    }
    for manifest_path in sorted(Path(f"data/episodes/{group}").glob("test*.parquet")):
        own = manifest_path.stem.removeprefix("test").removeprefix("-") or setting
        manifest = load_manifest(manifest_path, sets["test"]).head(episodes)
        best = np.array([row["correct"] / row["queries"] for row in counts if row["setting"] == own])
        for name, matrix in matrices.items():
            features = matrix.tocsr() if sparse.issparse(matrix) else matrix
            for classifier in known[name][1]:
                found = accuracies(features, CLASSIFIERS[classifier], manifest)
                lead = paired(best[: len(found)], found)
                shown = [
                    f"{100 * mean:.2f} ± {100 * half:.2f}"
                    for mean, half in (mean_and_interval(found), mean_and_interval(best[: len(found)]))
                ]
                difference = f"{100 * lead.mean:+.2f} ± {100 * lead.ci95:.2f}"
                lines.append(f"| {own} | {name} | {classifier} | {' | '.join(shown)} | {difference} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="scikit-learn on the same episodes.")
    parser.add_argument("groups", nargs="*", help="<data set>-<setting>; all that have a gate's decision")
    parser.add_argument("--episodes", type=int, default=1000, help="of each manifest, at most")
    given = parser.parse_args()
    decided = sorted(path.name.removesuffix("-gate.json") for path in Path("reports").glob("*-gate.json"))
    for group in given.groups or decided:
        print(table(group, given.episodes), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
