"""`metashot init` in the working directory, and the section that it writes."""

from pathlib import Path

from project import ROOT
from ruamel.yaml import YAML
from typer.testing import CliRunner

from metashot.cli import app

SHIPPED = (ROOT / "params.yaml").read_text()


def init(*arguments: str, code: int = 0) -> str:
    """Output of `metashot init`, which has to end with a status."""
    done = CliRunner().invoke(app, ["init", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done.output


def described(name: str) -> dict:
    """The section of a data set in params.yaml."""
    section: dict = YAML(typ="safe").load(Path("params.yaml").read_text())["data"][name]
    return section
