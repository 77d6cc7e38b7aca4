"""Draw the episodes of a setting once and for all, for every method the same."""

from pathlib import Path

from metashot.data import store
from metashot.episodes import sample
from metashot.params import Setting
from stages import read_params, replacing, run


def main(dataset: str, setting: str) -> None:
    """Write the manifests train, val, test and test-<extra> of ``data/episodes/<dataset>-<setting>``."""
    s = read_params(f"setting.{setting}", Setting)
    seed = read_params("seed", int)
    train, val, test = (
        store.load(Path(f"data/processed/{dataset}.parquet"), split) for split in ("train", "val", "test")
    )
    tests = {"test": (s.n_way, s.k_shot), **{f"test-{k}": (e.n_way, e.k_shot) for k, e in s.extra.items()}}
    with replacing(Path(f"data/episodes/{dataset}-{setting}")) as directory:
        sample(
            train,
            "train",
            n_way=min(s.train_way, len(train.class_names)),
            k_shot=s.k_shot,
            n_query=s.train_query,
            episodes=s.train_episodes,
            seed=seed,
        ).save(directory / "train.parquet")
        sample(
            val, "val", n_way=s.n_way, k_shot=s.k_shot, n_query=s.n_query, episodes=s.val_episodes, seed=seed
        ).save(directory / "val.parquet")
        for name, (n_way, k_shot) in tests.items():
            sample(
                test,
                "test",
                n_way=n_way,
                k_shot=k_shot,
                n_query=s.n_query,
                episodes=s.test_episodes,
                seed=seed,
            ).save(directory / f"{name}.parquet")


if __name__ == "__main__":
    run(main)
