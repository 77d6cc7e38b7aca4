"""Evaluate one model on the frozen test episodes; where it was trained, beside its untrained network."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metashot.config.params import ExtraSetting, Name, Seed, Threads
from metashot.data import store
from metashot.files import md5, replacing
from metashot.learning.evaluation import correct_in_each, correct_queries
from metashot.learning.models import methods, runtime
from metashot.learning.models.episodes import Chunks, load_manifest
from metashot.learning.models.methods.base import TrainedMethod
from metashot.learning.statistics import mean_and_interval
from metashot.lineage.metrics import Measured, Metrics
from metashot.lineage.record import Record, Recorder
from stages import read_params, run, write_csv

UNTRAINED_EPISODES = 100  # the first of the test episodes: enough to tell it from the trained network


def main(dataset: str, setting: str, method: str) -> None:
    """Write metrics, per-episode counts, their histogram and a record."""
    seed: int = read_params("seed", Seed)
    threads: int = read_params("threads", Threads)
    extras = read_params(f"setting.{setting}.extra", dict[Name, ExtraSetting])
    cell = f"{dataset}-{setting}/{method}"
    folder, data = Path(f"models/{cell}"), Path(f"data/processed/{dataset}.parquet")
    episodes = Path(f"data/episodes/{dataset}-{setting}")
    paths = {setting: episodes / "test.parquet"}
    paths |= {extra: episodes / f"test-{extra}.parquet" for extra in extras}

    runtime.keep_freed_memory()
    runtime.use_threads(threads)
    device = runtime.best_device()
    model, test = methods.load(folder, device), store.load(data, "test")
    manifests = {name: load_manifest(path, test) for name, path in paths.items()}
    read = [folder / "model.safetensors", folder / "model.json", data, *paths.values()]
    recorder = Recorder("evaluate", (dataset, setting, method), device, {"seed": seed}, read)
    samples = test.tensor(device)
    correct = dict(zip(manifests, correct_in_each(model, samples, list(manifests.values())), strict=True))
    measured = {name: _measured(correct[name] / manifests[name].queries) for name in manifests}
    main_manifest, own = manifests[setting], measured.pop(setting)
    untrained: Measured | None = None
    if isinstance(model, TrainedMethod):
        with runtime.reproducible(seed):  # the weights that training started from
            start = type(model)(model.params, model.problem).to(device)
        start.fit(Chunks(store.load(data, "train").tensor(device)))
        first = main_manifest.head(UNTRAINED_EPISODES)
        untrained = _measured(correct_queries(start, samples, first) / first.queries)
    metrics = Metrics(
        accuracy=own.accuracy,
        ci95=own.ci95,
        episodes=own.episodes,
        n_way=main_manifest.n_way,
        k_shot=main_manifest.k_shot,
        n_query=main_manifest.n_query,
        transductive=model.transductive,
        parameters=model.parameter_count(),
        extra=measured,
        manifest=md5(paths[setting]),
        untrained=untrained,
    )

    results = Path(f"results/{cell}")
    with replacing(results / "metrics.json") as partial:
        partial.write_text(metrics.json)
    columns = {"setting": [], "episode": [], "correct": [], "queries": []}  # type: dict[str, list[object]]
    for name, counts in correct.items():
        columns["setting"] += [name] * len(counts)
        columns["episode"] += range(len(counts))
        columns["correct"] += counts.tolist()
        columns["queries"] += [manifests[name].queries] * len(counts)
    number = pa.int32()
    schema = pa.schema({"setting": pa.string(), "episode": number, "correct": number, "queries": number})
    with replacing(results / "episodes.parquet") as partial:
        pq.write_table(pa.Table.from_pydict(columns, schema=schema), partial, compression="zstd")
    histogram = Counter((correct[setting] / main_manifest.queries).round(4).tolist())
    write_csv(results / "accuracy.csv", ("accuracy", "episodes"), sorted(histogram.items()))
    with replacing(Path(f"records/evaluate/{cell}")) as partial:
        partial.mkdir()
        recorder.save(partial, recorder.ended(Record))


def _measured(accuracies: np.ndarray) -> Measured:
    mean, interval = mean_and_interval(accuracies)
    return Measured(accuracy=mean, ci95=interval, episodes=len(accuracies))


if __name__ == "__main__":
    run(main)
