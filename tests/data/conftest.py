"""Fixtures of the tests that publish models of one kind of data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from project import METHODS


@pytest.fixture(scope="module")
def published(
    request: pytest.FixtureRequest, model_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A repository with the models in `model_root`, published, and the version of each method.

    Modules define `DATASET`, and `model_root` as a folder with ``models/<dataset>-5w1s/<method>``.
    """
    import synthetic  # slow to import

    root = tmp_path_factory.mktemp("published") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield root, synthetic.publish(model_root, root, request.module.DATASET, METHODS)
