"""The command line: `metashot`. Commands import what is slow to import themselves."""

from metashot.cli import pipeline, results, models, data  # noqa: F401, I001 - in the order of `metashot --help`
from metashot.cli.app import app as app
