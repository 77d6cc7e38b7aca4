"""The pinned packages work together, and tell nobody that they do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_prefect_runs_a_flow_on_its_temporary_server(tmp_path: Path) -> None:
    # With fastapi 0.151 or newer the server of prefect 3.8.8 dies at import.
    code = (
        "from prefect import flow, task\n"
        "@task\n"
        "def double(x): return 2 * x\n"
        "@flow\n"
        "def pipeline(): return double(21)\n"
        "print('answer', pipeline())\n"
    )
    (tmp_path / "example.py").write_text(code)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "answer 42" in done.stdout, done.stderr


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
