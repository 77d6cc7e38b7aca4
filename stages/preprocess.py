"""Stage preprocess: archives to Parquet."""

from pathlib import Path

from metashot.data.preprocess import preprocess
from metashot.data.source import source
from stages import read_params, run


def main(dataset: str) -> None:
    """Read data/raw/<dataset>, write data/processed/<dataset>.parquet."""
    module = source(dataset)
    params = read_params(f"data.{dataset}", module.Params)
    preprocess(module, params, Path("data/raw", dataset), Path("data/processed", f"{dataset}.parquet"))


if __name__ == "__main__":
    run(main)
