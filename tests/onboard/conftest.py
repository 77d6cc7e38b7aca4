"""Fixtures of the tests of `metashot init`."""

from pathlib import Path

import onboarding
import pytest


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(onboarding.SHIPPED)
    return tmp_path
