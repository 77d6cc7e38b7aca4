"""Stage download: the archives of a data set, fetched or made."""

from pathlib import Path
from shutil import rmtree

from metashot.data.source import source
from stages import read_params, run


def main(dataset: str) -> None:
    """Fill data/raw/<dataset>. An interrupted download stays in data/raw/<dataset>.partial and is resumed."""
    module = source(dataset)
    params = read_params(f"data.{dataset}", module.Params)
    target = Path("data/raw", dataset)
    partial = target.with_name(f"{dataset}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    module.download(params, partial)
    if target.exists():
        rmtree(target)
    partial.replace(target)


if __name__ == "__main__":
    run(main)
