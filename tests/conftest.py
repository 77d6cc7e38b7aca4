"""Fixtures of all tests. What takes long to make is made once for all worker processes, and tests copy it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Prefect reads these when it is imported: no test may touch a person's own server or profile.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="metashot-prefect-")
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ.pop("PREFECT_API_URL", None)
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side

import pytest
from filelock import FileLock
from project import Project

import flows  # noqa: F401 - sets Prefect's defaults, before anything imports it
from metashot.files import replacing


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets that may lie beside the repository; tests that need them are skipped without."""
    directory = Path(__file__).parents[2] / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"needs the real data sets in {directory}")
    return directory


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Project]:
    """A function that makes a project in a folder of a name, unless another worker process has made it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, fill: Callable[[Path], object]) -> Project:
        root = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not root.exists():
                with replacing(root) as partial:
                    fill(partial)
        return Project.at(root)

    return make


@pytest.fixture(scope="session")
def drawn(once: Callable[[str, Callable[[Path], object]], Project]) -> Project:
    """A project whose images are drawn and preprocessed, and no more. To be copied, not changed."""
    return once("drawn", lambda root: Project(root).repro("preprocess@glyphs"))


@pytest.fixture(scope="session")
def trained(once: Callable[[str, Callable[[Path], object]], Project], drawn: Project) -> Project:
    """A project whose models are trained, evaluated and judged, not registered. To be copied, not changed."""
    return once("trained", lambda root: drawn.copy(root).repro("gate@glyphs-5w1s"))


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
