"""Make one method's model of one data set and setting: by meta-training, or without training."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metashot.config.params import Seed, Threads, maker, training
from metashot.data import store
from metashot.files import replacing
from metashot.learning.augmentation import Augment
from metashot.learning.making import MAKERS, Order
from metashot.learning.models import backbones, methods, runtime
from metashot.learning.models.episodes import load_manifest
from metashot.lineage.record import Recorder, TrainingRecord
from metashot.project.attempts import Attempt
from stages import PARAMS, read_params, run, write_csv


def main(dataset: str, setting: str, method: str, *, attempt: Attempt) -> None:
    """Write the model, its learning curve, its record and its journal."""

    def log(step: int, values: Mapping[str, float]) -> None:
        attempt.tell({"step": step, "steps": steps, **values})
        if "val_accuracy" in values and not sys.stdout.isatty():  # a terminal shows a bar
            line = f"step {step} of {steps}: validation {values['val_accuracy']:.2%}"
            if "train_loss" in values:
                line += f", loss {values['train_loss']:.4f}, {values['episodes_per_s']:.1f} episodes/s"
            with suppress(OSError):  # a training outlives the reader of its output
                os.write(1, f"{line}\n".encode())

    cls = methods.METHODS[method]
    seed: int = read_params("seed", Seed)
    threads: int = read_params("threads", Threads)
    usual = read_params(f"method.{method}", cls.params_type)
    budget = read_params(f"data.{dataset}.budget.{method}", Any)
    augment: Augment = read_params(f"data.{dataset}.augment", Augment)
    steps, hyper = training(PARAMS, f"data.{dataset}.budget.{method}", usual, budget)
    backbone: backbones.Params | None = None
    if maker(hyper) == "training":  # the others choose one
        backbone = read_params(f"data.{dataset}.backbone", backbones.BACKBONES)

    runtime.keep_freed_memory()
    runtime.use_threads(threads)
    device = runtime.best_device()
    data = Path(f"data/processed/{dataset}.parquet")
    rows, val_rows = (
        Path(f"data/episodes/{dataset}-{setting}/{split}.parquet") for split in ("train", "val")
    )
    samples, val_samples = store.load(data, "train"), store.load(data, "val")
    manifest, val_manifest = load_manifest(rows, samples), load_manifest(val_rows, val_samples)
    resolved = {
        "seed": seed,
        "method": asdict(hyper),
        "backbone": asdict(backbone) if backbone else None,
        "augment": asdict(augment),
        "budget": steps,
    }
    recorder = Recorder("train", (dataset, setting, method), device, resolved, [data, rows, val_rows])
    order = Order(
        samples=samples,
        manifest=manifest,
        val_samples=val_samples,
        val_manifest=val_manifest,
        backbone=backbone,
        augment=augment.episodes,
        steps=steps,
        seed=seed,
        device=device,
        log=log,
        checkpoint=attempt.checkpoint(recorder.record.key),
    )
    with runtime.reproducible(seed):
        model, progress = MAKERS[maker(hyper)](cls, hyper, order)

    cell = f"{dataset}-{setting}/{method}"
    with replacing(Path(f"models/{cell}")) as partial:
        partial.mkdir()
        methods.save(model, partial)
    write_csv(Path(f"results/{cell}/curve.csv"), ("step", "loss", "val_accuracy"), progress.curve)
    with replacing(Path(f"records/train/{cell}")) as partial:
        partial.mkdir()
        record = recorder.ended(
            TrainingRecord,
            params=resolved | {"backbone": asdict(model.problem.backbone), "chosen": model.chosen},
            started=progress.started,
            seconds=progress.seconds,
            resumed=progress.resumed,
            steps=steps,
            best_step=progress.best_step,
            episodes_per_s=progress.episodes_per_s,
            parameters=model.parameter_count(),
        )
        recorder.save(partial, record, progress.journal)


if __name__ == "__main__":
    run(main)
