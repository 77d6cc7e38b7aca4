"""Catalogues: parts by name, and what is wrong with one in a line."""

import sys
from pathlib import Path

import pytest

from metashot.catalogue import Catalogue
from metashot.errors import MetashotError

PARTS = {
    "plain": "plain",
    "named": "plain:Named",
    "typo": "plain:Names",
    "lost": "nowhere",
    "broken": "broken",
    "poor": "poor",
}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    package = tmp_path / "parts_of_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plain.py").write_text("use = 1\n\nclass Named:\n    use = 2\n")
    (package / "broken.py").write_text("import a_package_that_nobody_has\n")
    (package / "poor.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Catalogue("part", "parts_of_tests", PARTS, ("use",))
    for name in [name for name in sys.modules if name.startswith("parts_of_tests")]:
        del sys.modules[name]


def test_parts_are_modules_or_something_in_one(parts: Catalogue) -> None:
    assert (parts["plain"].use, parts["named"].use) == (1, 2)
    assert list(parts) == list(PARTS)
    assert "plain" in parts
    assert "other" not in parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", "unknown part 'other': there are broken, lost, named, plain, poor, typo"),
        ("lost", "part lost: there is no module parts_of_tests.nowhere"),
        ("typo", "part typo: parts_of_tests.plain has no Names"),
        ("poor", "part poor in parts_of_tests.poor lacks use"),
    ],
)
def test_a_part_that_is_not_right_is_named(parts: Catalogue, name: str, message: str) -> None:
    with pytest.raises(MetashotError) as caught:
        parts[name]
    assert str(caught.value) == message


def test_what_a_module_itself_lacks_is_no_fault_of_the_catalogue(parts: Catalogue) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        parts["broken"]
