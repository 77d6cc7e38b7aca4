"""Fixtures of all tests."""

import os
import tempfile
from pathlib import Path

# Prefect reads these when it is imported: no test may touch a person's own server or profile.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="metashot-prefect-")
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ.pop("PREFECT_API_URL", None)
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side

import pytest
from project import Project

import flows  # noqa: F401 - sets Prefect's defaults, before anything imports it


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets that may lie beside the repository; tests that need them are skipped without."""
    directory = Path(__file__).parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"needs the real data sets in {directory}")
    return directory


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose images are drawn and preprocessed, and no more."""
    project = Project(tmp_path_factory.mktemp("drawn"))
    project.repro("preprocess@glyphs")
    return project


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose published models are real, with random weights."""
    import synthetic  # slow to import, and so is MLflow

    from metashot.registry import publish

    folder = tmp_path_factory.mktemp("registered") / "repository"
    root = synthetic.make(folder, synthetic.MODELS, synthetic.save_random)
    synthetic.give_database(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        publish.publish(root, [("glyphs", "5w1s")], list(synthetic.MODELS))
    return root
