"""The page of results against what the evaluation measured and the papers report."""

import re

import pytest
import synthetic

from metashot.errors import MetashotError
from metashot.results import papers


def test_the_page_has_every_shape_that_was_tested_beside_what_is_published(tmp_path):
    root = synthetic.make(tmp_path, {"prototypical": 0.95, "matching": 0.91, "transfer": 0.78}, ds="omniglot")
    page = papers.page(root)
    assert page == papers.page(root)
    tables = re.split(r"\n\n", page)
    (one_shot,) = (table for table in tables if table.startswith("| 5-way 1-shot"))
    (five_shot,) = (table for table in tables if table.startswith("| 5-way 5-shot"))
    snell, vinyals = (
        f"table 1 of {source}"
        for source in ("Snell et al. 2017, arXiv:1703.05175", "Vinyals et al. 2016, arXiv:1606.04080")
    )
    assert one_shot.splitlines()[2:] == [
        f"| prototypical | 95.00 ± 0.40 % | 1,000 | 98.8 | -3.8 | {snell} |",
        f"| matching | 91.00 ± 0.40 % | 1,000 | 98.1 | -7.1 | {vinyals} |",
        "| transfer | 78.00 ± 0.40 % | 1,000 | | | |",
    ]
    assert "| prototypical | 97.00 ± 0.30 % | 1,000 | 99.7 | -2.7 |" in five_shot
    assert "| prototypical | 20 | " in page  # steps
    assert "the 423 are those of Vinyals et al." in page


def test_synthetic_data_have_nothing_beside_them(tmp_path):
    page = papers.page(synthetic.make(tmp_path))
    assert "## glyphs (synthetic data), trained for 5w1s" in page
    assert "arXiv" not in page


def test_before_anything_is_evaluated_it_is_one_line(tmp_path):
    root = synthetic.make(tmp_path)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    with pytest.raises(MetashotError, match="no method was evaluated yet"):
        papers.page(root)


def test_published_accuracies_are_those_of_the_papers() -> None:
    """Typed from the papers' tables a second time, with the digits that they print."""
    omniglot = {  # 5-way 1-shot and 5-shot, 20-way 1-shot and 5-shot
        "siamese": ("97.3", "98.4", "88.2", "97.0"),
        "matching": ("98.1", "98.9", "93.8", "98.5"),
        "prototypical": ("98.8", "99.7", "96.0", "98.9"),
        "maml": ("98.7", "99.9", "95.8", "98.9"),
        "reptile": ("95.39", "98.90", "88.14", "96.65"),
        "reptile (transductive)": ("97.68", "99.48", "89.43", "97.12"),
    }
    cifar_fs = {"prototypical": ("55.5", "72.0"), "maml": ("58.9", "71.5")}
    shapes = [(5, 1), (5, 5), (20, 1), (20, 5)]
    for dataset, table in (("omniglot", omniglot), ("cifar_fs", cifar_fs)):
        assert papers.PUBLISHED[dataset].keys() == table.keys()
        for method, printed in table.items():
            reported = papers.PUBLISHED[dataset][method].accuracies
            assert list(reported) == shapes[: len(printed)]
            for value, number in zip(reported.values(), printed, strict=True):
                assert abs(value - float(number)) <= 0.0501, (method, number)
