"""The pinned packages work together, and tell nobody that they do."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_lock_names_no_package_source_and_pins_every_requirement() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line or "index-url" in line]
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in packages)


def test_analytics_are_off_by_default() -> None:
    assert "analytics = false" in (ROOT / ".dvc/config").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for setting in (
        "DVC_NO_ANALYTICS := 1",
        "MLFLOW_DISABLE_TELEMETRY := true",
        "PREFECT_SERVER_ANALYTICS_ENABLED := false",
    ):
        assert setting in makefile
