"""Draw the episodes of a setting once, the same for every method."""

from pathlib import Path

from metashot.config.params import Seed, Setting
from metashot.data import store
from metashot.files import replacing
from metashot.learning.models.episodes import sample
from stages import read_params, run


def main(dataset: str, setting: str) -> None:
    """Write the manifests train, val, test and test-<extra> of ``data/episodes/<dataset>-<setting>``."""
    s: Setting = read_params(f"setting.{setting}", Setting)
    seed: int = read_params("seed", Seed)
    data = Path(f"data/processed/{dataset}.parquet")
    train, val, test = (store.load(data, split, within=0) for split in ("train", "val", "test"))
    # name: samples, N, K, Q, episodes
    manifests = {
        "train": (train, s.train_way, s.k_shot, s.train_query, s.train_episodes),
        "val": (val, s.n_way, s.k_shot, s.n_query, s.val_episodes),
        "test": (test, s.n_way, s.k_shot, s.n_query, s.test_episodes),
    }
    for name, extra in s.extra.items():
        manifests[f"test-{name}"] = (test, extra.n_way, extra.k_shot, s.n_query, extra.episodes)
    with replacing(Path(f"data/episodes/{dataset}-{setting}")) as partial:
        partial.mkdir()
        for name, (samples, n_way, k_shot, n_query, episodes) in manifests.items():
            manifest = sample(
                samples, n_way=n_way, k_shot=k_shot, n_query=n_query, episodes=episodes, seed=seed
            )
            manifest.save(partial / f"{name}.parquet")


if __name__ == "__main__":
    run(main)
