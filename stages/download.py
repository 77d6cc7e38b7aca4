"""Stage download: fetch the archives of a data set, or make them."""

from pathlib import Path

from metashot.config.params import Name
from metashot.data.sources import SOURCES
from metashot.files import replacing
from stages import read_params, run


def main(dataset: str) -> None:
    """Fill ``data/raw/<dataset>``; an interrupted download is resumed by the next run."""
    module = SOURCES[read_params(f"data.{dataset}.source", Name)]
    raw = read_params(f"data.{dataset}.raw", module.Raw)
    with replacing(Path("data/raw", dataset), resume=True) as partial:
        partial.mkdir(exist_ok=True)
        module.download(raw, partial)


if __name__ == "__main__":
    run(main)
