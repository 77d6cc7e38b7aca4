"""Fixtures of the tests that publish trained models of one kind of data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from project import METHODS, Project


@pytest.fixture(scope="module")
def published(
    request: pytest.FixtureRequest, trained: tuple[Project, dict], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A repository with the models that a module trained on its `DATASET`, and the version of each method."""
    import synthetic  # slow to import

    root = tmp_path_factory.mktemp("published") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield root, synthetic.publish(trained[0].root, root, request.module.DATASET, METHODS)
