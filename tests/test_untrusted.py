"""Untrusted files: anything but a plain file of bounded size is refused before it is read."""

import os
import socket
from pathlib import Path

import pytest

from metashot import untrusted


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "base/inner").mkdir(parents=True)
    (tmp_path / "base/inner/file").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "base"


def test_plain_files_are_listed_and_read(folder):
    assert untrusted.listing(folder) == {"inner/file": 7}
    assert untrusted.read(folder, "inner/file", 7) == b"content"


def test_a_file_is_read_no_further_than_it_may_reach(folder):
    with pytest.raises(untrusted.Refused, match="'inner/file' has more than 6 bytes"):
        untrusted.read(folder, "inner/file", 6)


@pytest.mark.parametrize("name", ["../secret", "inner/../../secret", "/etc/passwd"])
def test_no_name_leads_outside(folder, name):
    with pytest.raises(untrusted.Refused, match="leads outside"):
        untrusted.read(folder, name, 100)


def test_only_plain_files_are_listed_and_opened(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "link").symlink_to("../secret")
    (folder / "around").symlink_to("inner")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    (folder / "again").hardlink_to("inner/file")
    for name, kind in {
        "link": "a symbolic link",
        "around/file": "lies behind a symbolic link",
        "pipe": "a named pipe",
        "socket": "a socket",
        "again": "has another name",
        "inner": "a folder",
    }.items():
        with pytest.raises(untrusted.Refused, match=kind):
            untrusted.read(folder, name, 100)
    for name in ("link", "around", "pipe", "socket", "again"):
        (folder / "alone").mkdir()
        (folder / name).rename(folder / "alone" / name)
        with pytest.raises(untrusted.Refused, match=f"'{name}' (is a|has another name)"):
            untrusted.listing(folder / "alone")
        (folder / "alone" / name).rename(folder / name)
        (folder / "alone").rmdir()


def test_a_folder_without_a_file_and_one_with_too_many_are_refused(folder):
    (folder / "deep/deeper").mkdir(parents=True)
    with pytest.raises(untrusted.Refused, match="'deep/deeper' is an empty folder"):
        untrusted.listing(folder)
    (folder / "deep/deeper").rmdir()
    for number in range(1000):
        (folder / f"deep/{number}").touch()
    with pytest.raises(untrusted.Refused, match="holds more than 1,000 files and folders"):
        untrusted.listing(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (200_000 * b"[", "not JSON"),
        (200_000 * b'{"a":', "not JSON"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 levels"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested more than 32 levels"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
        (b"9" * 5000, "not JSON"),
    ],
)
def test_json_of_any_kind_is_one_line(content, problem):
    with pytest.raises(untrusted.Refused, match=problem) as caught:
        untrusted.parsed(content, "lineage.json")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


def test_json_is_read():
    assert untrusted.parsed(b'{"a": [1, {"b": null}]}', "it") == {"a": [1, {"b": None}]}
