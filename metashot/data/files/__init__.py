"""Readers of other people's files: folders, zip archives, tables, lists of splits, downloads."""

from collections.abc import Callable

Read = Callable[[], bytes]  # returns the content of one file; MetashotError where it cannot be read
Files = dict[str, Read]  # files by their path in a folder or archive
