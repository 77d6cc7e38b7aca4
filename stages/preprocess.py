"""Stage preprocess: archives to Parquet."""

from pathlib import Path

from metashot.data.preprocess import preprocess
from metashot.data.source import source
from metashot.params import Name
from stages import read_params, run


def main(dataset: str) -> None:
    """Read data/raw/<dataset>, write data/processed/<dataset>.parquet."""
    module = source(read_params(f"data.{dataset}.source", Name))
    prepare = read_params(f"data.{dataset}.prepare", module.Prepare)
    preprocess(module, prepare, Path("data/raw", dataset), Path("data/processed", f"{dataset}.parquet"))


if __name__ == "__main__":
    run(main)
