"""Stage preprocess: convert archives to Parquet."""

from pathlib import Path

from metashot.config.params import Name
from metashot.data.preprocess import preprocess
from metashot.data.sources import SOURCES
from stages import read_params, run


def main(dataset: str) -> None:
    """Read ``data/raw/<dataset>``, write ``data/processed/<dataset>.parquet``."""
    module = SOURCES[read_params(f"data.{dataset}.source", Name)]
    prepare = read_params(f"data.{dataset}.prepare", module.Prepare)
    preprocess(module, prepare, Path("data/raw", dataset), Path("data/processed", f"{dataset}.parquet"))


if __name__ == "__main__":
    run(main)
