"""How accurate the six methods get on synthetic sounds and series, and how fast those are preprocessed.

Trainings are short, and the data made up (`benchmarks.toys`): what this shows is that every method learns
from either kind. Nothing is asserted. Run as ``python -m benchmarks.kinds``.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import toys
from metashot.config import params
from metashot.data import store
from metashot.data.files import division
from metashot.data.preprocess import preprocess
from metashot.data.sources import Source, audio_folder, series_table
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import methods, runtime
from metashot.learning.models.backbones.conv1d import Conv1dParams
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.statistics import mean_and_interval
from metashot.learning.training import train

ROOT = Path(__file__).parents[1]
CLASSES, SAMPLES, THREADS = 100, 20, 2
STEPS = {"siamese": 100, "matching": 100, "prototypical": 100, "maml": 250, "reptile": 400, "transfer": 200}


def sounds(folder: Path) -> tuple[Source, Any, Any, int]:
    """The source of chirps, how they are prepared, their network and how many there are."""
    for class_ in range(CLASSES):
        for number in range(SAMPLES):
            toys.write_sound(folder / f"sounds/chirp{class_:03d}/{number:02d}.wav", class_, number)
    raw = audio_folder.Raw(path=str(folder / "sounds"), splits="", md5="")
    raw = audio_folder.Raw(path=raw.path, splits="", md5=audio_folder.digest(raw, Path()))
    audio_folder.download(raw, folder)
    shares = division.Shares(of="classes", seed=0, val=0.2, test=0.2)
    prepare = audio_folder.Prepare(
        sample_rate=16000,
        seconds=1.0,
        mels=40,
        window_ms=40.0,
        hop_ms=20.0,
        range_db=80.0,
        repeated="refuse",
        split=shares,
    )
    network = Conv4Params(name="conv4", width=64, downsample="pool")
    return audio_folder, prepare, network, CLASSES * SAMPLES  # type: ignore[return-value]


def series(folder: Path) -> tuple[Source, Any, Any, int]:
    """The same of oscillations."""
    toys.write_series(folder / "waves.csv", CLASSES, SAMPLES)
    raw = series_table.Raw(path=str(folder / "waves.csv"), md5="")
    raw = series_table.Raw(path=raw.path, md5=series_table.digest(raw, Path()))
    series_table.download(raw, folder)
    prepare = series_table.Prepare(
        channels=toys.CHANNELS,
        length=128,
        fit="crop",
        standardise="series",
        repeated="refuse",
        split="listed",
    )
    network = Conv1dParams(name="conv1d", width=64, kernel=5)
    return series_table, prepare, network, CLASSES * SAMPLES  # type: ignore[return-value]


def main() -> None:
    """Print a line for each kind and method."""
    runtime.keep_freed_memory()
    runtime.use_threads(THREADS)
    device = runtime.best_device()
    for kind in (sounds, series):
        with tempfile.TemporaryDirectory() as name:
            source, prepare, network, count = kind(Path(name))
            started = time.perf_counter()
            preprocess(source, prepare, Path(name), Path(name, "data.parquet"))
            seconds = time.perf_counter() - started
            cores = len(os.sched_getaffinity(0))
            print(f"{kind.__name__}: {count / seconds:,.0f} samples/s preprocessed by {cores} cores")
            splits = {
                split: store.load(Path(name, "data.parquet"), split) for split in ("train", "val", "test")
            }
        way = min(40, len(splits["train"].class_names))
        training = sample(splits["train"], n_way=way, k_shot=1, n_query=5, episodes=500, seed=0)
        validation, test = (
            sample(splits[split], n_way=5, k_shot=1, n_query=15, episodes=episodes, seed=0)
            for split, episodes in (("val", 40), ("test", 500))
        )
        for method, steps in STEPS.items():
            cls = methods.METHODS[method]
            said = params.read(ROOT / "params.yaml", f"method.{method}", dict[str, Any])
            hyper = cls.params_type(**said | {"train_way": way})
            with runtime.reproducible(0):
                problem = Problem(splits["train"].form, network, len(splits["train"].class_names))
                model = cls(hyper, problem).to(device)
                samples = splits["test"].tensor(device)
                untrained = correct_queries(model, samples, test.head(100)) / test.queries
                started = time.perf_counter()
                train(
                    model,
                    splits["train"],
                    training,
                    splits["val"],
                    validation,
                    steps=steps,
                    seed=0,
                    log=lambda *_: None,
                )
            seconds = time.perf_counter() - started
            mean, interval = mean_and_interval(correct_queries(model, samples, test) / test.queries)
            shown = f"{100 * mean:.1f} ± {100 * interval:.1f}", f"{100 * untrained.mean():.1f}"
            print(
                f"{kind.__name__} {method}: {' %, untrained '.join(shown)} %, {steps} steps, {seconds:.0f} s"
            )


if __name__ == "__main__":
    main()
