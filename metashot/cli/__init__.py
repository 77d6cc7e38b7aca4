"""The command line: `metashot`. Whatever is slow to import is imported by the command that needs it."""

from metashot.cli import pipeline, results, models, data  # noqa: F401, I001 - in the order of `metashot --help`
from metashot.cli.app import app as app
