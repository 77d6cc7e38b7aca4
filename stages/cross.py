"""Test a model on the episodes of another data set than it was trained on."""

from pathlib import Path

from metashot.config.params import Threads
from metashot.data import store
from metashot.errors import MetashotError
from metashot.files import md5, replacing
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import methods, runtime
from metashot.learning.models.episodes import load_manifest
from metashot.learning.statistics import mean_and_interval
from metashot.lineage.metrics import CrossMetrics, TestedOn, TrainedOn
from stages import read_params, run


def main(dataset: str, other: str, setting: str, method: str) -> None:
    """Write what a model of ``dataset`` makes of the test episodes of ``other``, with the digests of both."""
    threads: int = read_params("threads", Threads)
    folder = Path(f"models/{dataset}-{setting}/{method}")
    trained, tested = (Path(f"data/processed/{name}.parquet") for name in (dataset, other))
    manifest_path = Path(f"data/episodes/{other}-{setting}/test.parquet")

    runtime.keep_freed_memory()
    runtime.use_threads(threads)
    device = runtime.best_device()
    model, test = methods.load(folder, device), store.load(tested, "test")
    if model.problem.form != test.form:
        raise MetashotError(
            f"{dataset} and {other} do not have samples of one form ({model.problem.form} and {test.form}): "
            "prepare them alike"
        )
    manifest = load_manifest(manifest_path, test)
    known = store.digests(trained)
    if again := store.digests(tested)["test"] & (known["train"] | known["val"]):
        raise MetashotError(f"{len(again)} test samples of {other} are training samples of {dataset}")
    correct = correct_queries(model, test.tensor(device), manifest)
    mean, interval = mean_and_interval(correct / manifest.queries)
    metrics = CrossMetrics(
        accuracy=mean,
        ci95=interval,
        episodes=len(manifest),
        n_way=manifest.n_way,
        k_shot=manifest.k_shot,
        trained_on=TrainedOn(dataset=dataset, data=md5(trained), model=md5(folder / "model.safetensors")),
        tested_on=TestedOn(dataset=other, data=md5(tested), episodes=md5(manifest_path)),
    )
    with replacing(Path(f"results/{dataset}-on-{other}-{setting}/{method}.json")) as partial:
        partial.write_text(metrics.json)


if __name__ == "__main__":
    run(main)
