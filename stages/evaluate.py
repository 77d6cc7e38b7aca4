"""Evaluate one trained model on the frozen test episodes, beside its own untrained network."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metashot import methods, runtime
from metashot.data import store
from metashot.episodes import load_manifest
from metashot.errors import MetashotError
from metashot.evaluation import correct_queries, mean_and_interval
from metashot.methods.base import Method, Problem
from metashot.params import Setting
from metashot.record import Record, file_md5
from stages import read_params, replacing, replacing_file, run, write_csv


def main(dataset: str, setting: str, name: str) -> None:
    """Write metrics, per-episode counts, their histogram and a record."""
    seed = read_params("seed", int)
    protocol = read_params(f"setting.{setting}", Setting)
    cell = f"{dataset}-{setting}/{name}"
    model, data = Path(f"models/{cell}"), Path(f"data/processed/{dataset}.parquet")
    episodes = Path(f"data/episodes/{dataset}-{setting}")
    manifests = {setting: episodes / "test.parquet"}
    manifests |= {extra: episodes / f"test-{extra}.parquet" for extra in protocol.extra}

    runtime.keep_freed_memory()
    device = runtime.best_device()
    record = Record(
        "evaluate",
        device,
        {"seed": seed},
        [model / "model.safetensors", model / "model.json", data, *manifests.values()],
    )
    test = store.load(data, "test")
    images = test.images.to(device)
    method = methods.load(model, device)

    correct: dict[str, np.ndarray] = {}
    totals: dict[str, int] = {}
    summary: dict[str, dict[str, float]] = {}
    for protocol_name, path in manifests.items():
        manifest = load_manifest(path, test)
        try:
            method.check_setting(manifest.n_way)
        except MetashotError:
            if protocol_name == setting:
                raise
            continue  # an extra protocol is evaluated where the method allows it
        totals[protocol_name] = manifest.n_way * manifest.n_query
        correct[protocol_name] = correct_queries(method, images, manifest)
        summary[protocol_name] = _summarise(correct[protocol_name] / totals[protocol_name])

    manifest = load_manifest(manifests[setting], test)
    untrained = correct_queries(_untrained(method, name, model, seed).to(device), images, manifest)
    metrics = {
        **summary.pop(setting),
        "n_way": manifest.n_way,
        "k_shot": manifest.k_shot,
        "n_query": manifest.n_query,
        "transductive": method.transductive,
        "parameters": method.parameter_count(),
        "untrained": _summarise(untrained / totals[setting]),
        "extra": summary,
        "manifest": file_md5(manifests[setting]),
    }

    results = Path(f"results/{cell}")
    with replacing_file(results / "metrics.json") as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")
    with replacing_file(results / "episodes.parquet") as partial:
        pq.write_table(_table(correct, totals), partial, compression="zstd")
    histogram = sorted(Counter((correct[setting] / totals[setting]).round(4).tolist()).items())
    write_csv(results / "accuracy.csv", ("accuracy", "episodes"), histogram)
    with replacing(Path(f"records/evaluate/{cell}")) as directory:
        record.save(directory, dataset=dataset, setting=setting, method=name)


def _summarise(accuracy: np.ndarray) -> dict[str, float]:
    mean, interval = mean_and_interval(accuracy)
    return {"accuracy": mean, "ci95": interval, "episodes": len(accuracy)}


def _untrained(method: Method, name: str, model: Path, seed: int) -> Method:
    """The same method with the random weights that training started from."""
    about = json.loads((model / "model.json").read_text())
    params = method.params_type(**about["hyperparameters"])
    with runtime.reproducible(seed):
        return methods.method_class(name)(params, Problem(tuple(about["image"]), about["n_way"]))


def _table(correct: dict[str, np.ndarray], totals: dict[str, int]) -> pa.Table:
    return pa.concat_tables(
        pa.table(
            {
                "setting": pa.array([setting] * len(counts)),
                "episode": pa.array(np.arange(len(counts)), pa.int32()),
                "correct": pa.array(counts, pa.int32()),
                "queries": pa.array([totals[setting]] * len(counts), pa.int32()),
            }
        )
        for setting, counts in correct.items()
    )


if __name__ == "__main__":
    run(main)
