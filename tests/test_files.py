"""Files and folders are written completely or not at all, wherever writing stops."""

import hashlib
from pathlib import Path

import pytest

from metashot.files import md5, replacing


def write(path: Path, kind: str, text: str) -> None:
    if kind == "folder":
        path.mkdir(exist_ok=True)
        path /= "content"
    path.write_text(text)


def read(path: Path) -> str:
    return (path / "content" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_new_content_takes_the_place_of_old(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("first", "second"):
        with replacing(target) as partial:
            write(partial, kind, text)
            assert not target.exists() or read(target) == "first"
        assert read(target) == text
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_the_old_content_and_nothing_else(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with replacing(target) as partial:
        write(partial, kind, "first")
    with pytest.raises(ZeroDivisionError), replacing(target) as partial:
        write(partial, kind, "second")
        raise ZeroDivisionError
    assert read(target) == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_at_any_renaming_one_version_is_whole(
    kind: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill is a stop with no clean-up: renaming and removing both cease at the same moment."""
    target = tmp_path / "target"
    with replacing(target) as partial:
        write(partial, kind, "first")
    calls = 0

    def dying(name: str):
        original = getattr(Path, name)

        def step(self: Path, *arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= call:
                raise SystemExit(137)
            return original(self, *arguments, **options)

        return step

    try:
        with replacing(target) as partial:
            write(partial, kind, "second")
            for name in ("rename", "replace", "unlink"):
                monkeypatch.setattr(Path, name, dying(name))
            monkeypatch.setattr("shutil.rmtree", lambda path: None)
    except SystemExit:
        pass
    monkeypatch.undo()
    contents = {read(path) for path in tmp_path.iterdir()}
    assert contents & {"first", "second"}
    if target.exists():
        assert read(target) in ("first", "second")
    with replacing(target) as partial:
        write(partial, kind, "third")
    assert read(target) == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_resumed_block_continues_the_failed_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(ZeroDivisionError), replacing(target, resume=True) as partial:
        write(partial, "folder", "half")
        raise ZeroDivisionError
    assert not target.exists()
    with replacing(target, resume=True) as partial:
        assert read(partial) == "half"
        write(partial, "folder", "whole")
    assert read(target) == "whole"


def test_md5(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some bytes")
    assert md5(tmp_path / "file") == hashlib.md5(b"some bytes").hexdigest()
