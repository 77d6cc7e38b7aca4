"""Meta-train one method on one data set and setting."""

from dataclasses import asdict
from pathlib import Path

from metashot import methods, runtime
from metashot.data import store
from metashot.episodes import load_manifest
from metashot.methods.base import Problem
from metashot.params import Setting
from metashot.record import Record
from metashot.training import train
from stages import read_params, replacing, run, write_csv


def main(dataset: str, setting: str, name: str) -> None:
    """Write the model, its learning curve, its record and its journal."""
    seed = read_params("seed", int)
    n_way = read_params(f"setting.{setting}", Setting).n_way
    cls = methods.method_class(name)
    params = read_params(f"method.{name}", cls.params_type)
    steps = read_params(f"budget.{dataset}.{name}", int)

    runtime.keep_freed_memory()
    device = runtime.best_device()
    data = Path(f"data/processed/{dataset}.parquet")
    episodes = Path(f"data/episodes/{dataset}-{setting}")
    record = Record(
        "train",
        device,
        {"seed": seed, "n_way": n_way, "method": asdict(params), "budget": steps},
        [data, episodes / "train.parquet", episodes / "val.parquet"],
    )
    images, val_images = store.load(data, "train"), store.load(data, "val")
    _, *size = images.images.shape
    problem = Problem((size[0], size[1], size[2]), n_way, len(images.class_names))
    with runtime.reproducible(seed):
        method = cls(params, problem).to(device)
        progress = train(
            method,
            images,
            load_manifest(episodes / "train.parquet", images),
            val_images,
            load_manifest(episodes / "val.parquet", val_images),
            lr=params.lr,
            meta_batch=params.meta_batch,
            steps=steps,
            seed=seed,
            log=record.log,
        )

    cell = f"{dataset}-{setting}/{name}"
    with replacing(Path(f"models/{cell}")) as directory:
        methods.save(method, name, params, problem, directory)
    write_csv(Path(f"results/{cell}/curve.csv"), ("step", "loss", "val_accuracy"), progress.curve)
    with replacing(Path(f"records/train/{cell}")) as directory:
        record.save(
            directory,
            dataset=dataset,
            setting=setting,
            method=name,
            steps=steps,
            best_step=progress.best_step,
            episodes_per_s=progress.episodes_per_s,
            parameters=method.parameter_count(),
        )


if __name__ == "__main__":
    run(main)
