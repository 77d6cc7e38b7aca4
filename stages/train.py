"""Meta-train one method on one data set and setting."""

from dataclasses import asdict
from pathlib import Path

from pydantic import PositiveInt

from metashot import methods, runtime
from metashot.data import store
from metashot.episodes import load_manifest
from metashot.files import replacing
from metashot.methods.base import Problem
from metashot.params import Seed, Way
from metashot.record import Record
from metashot.training import train
from stages import read_params, run, write_csv


def main(dataset: str, setting: str, method: str) -> None:
    """Write the model, its learning curve, its record and its journal."""
    cls = methods.method_class(method)
    seed: int = read_params("seed", Seed)
    n_way: int = read_params(f"setting.{setting}.n_way", Way)
    hyper = read_params(f"method.{method}", cls.params_type)
    steps: int = read_params(f"budget.{dataset}.{method}", PositiveInt)

    runtime.keep_freed_memory()
    device = runtime.best_device()
    data = Path(f"data/processed/{dataset}.parquet")
    rows, val_rows = (
        Path(f"data/episodes/{dataset}-{setting}/{split}.parquet") for split in ("train", "val")
    )
    images, val_images = store.load(data, "train"), store.load(data, "val")
    manifest, val_manifest = load_manifest(rows, images), load_manifest(val_rows, val_images)
    resolved = {"seed": seed, "n_way": n_way, "method": asdict(hyper), "budget": steps}
    record = Record("train", device, resolved, [data, rows, val_rows])
    with runtime.reproducible(seed):
        model = cls(hyper, Problem(images.shape, n_way, len(images.class_names))).to(device)
        progress = train(
            model,
            images,
            manifest,
            val_images,
            val_manifest,
            lr=hyper.lr,
            meta_batch=hyper.meta_batch,
            steps=steps,
            seed=seed,
            log=record.log,
        )

    cell = f"{dataset}-{setting}/{method}"
    with replacing(Path(f"models/{cell}")) as partial:
        partial.mkdir()
        methods.save(model, partial)
    write_csv(Path(f"results/{cell}/curve.csv"), ("step", "loss", "val_accuracy"), progress.curve)
    with replacing(Path(f"records/train/{cell}")) as partial:
        partial.mkdir()
        record.save(
            partial,
            dataset=dataset,
            setting=setting,
            method=method,
            steps=steps,
            best_step=progress.best_step,
            episodes_per_s=progress.episodes_per_s,
            parameters=model.parameter_count(),
        )


if __name__ == "__main__":
    run(main)
