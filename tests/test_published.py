"""The page of results against what the evaluation measured and the papers report."""

import json
import re

import pytest
import synthetic
from typer.testing import CliRunner

from metashot import plots, published
from metashot.cli import app
from metashot.errors import MetashotError


def test_the_page_has_every_shape_that_was_tested_beside_what_is_published(tmp_path):
    root = synthetic.make(tmp_path, {"prototypical": 0.95, "matching": 0.91, "transfer": 0.78}, ds="omniglot")
    page = published.page(root)
    assert page == published.page(root)
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
    page = published.page(synthetic.make(tmp_path))
    assert "## glyphs (synthetic data), trained for 5w1s" in page
    assert "arXiv" not in page


def test_before_anything_is_evaluated_it_is_one_line(tmp_path):
    root = synthetic.make(tmp_path)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    with pytest.raises(MetashotError, match="no method was evaluated yet"):
        published.page(root)


def test_curves_are_those_of_the_journals_in_minutes(tmp_path):
    root = synthetic.make(tmp_path)
    found = published.curves(root, "glyphs", "5w1s")
    assert sorted(found) == sorted(synthetic.ACCURACY)
    for method, points in found.items():
        journal = root / f"records/train/glyphs-5w1s/{method}/journal.jsonl"
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        began = json.loads(journal.with_name("record.json").read_text())["started"]
        expected = [
            (x["time"], x["metrics"]["val_accuracy"]) for x in lines if "val_accuracy" in x["metrics"]
        ]
        assert [accuracy for _, accuracy in points] == [accuracy for _, accuracy in expected]
        assert [60 * minutes + began for minutes, _ in points] == pytest.approx(
            [time for time, _ in expected]
        )
    picture = plots.minutes_plot("glyphs 5w1s", found)
    assert picture == plots.minutes_plot("glyphs 5w1s", found)
    assert picture != plots.minutes_plot("glyphs 5w1s", {"matching": found["matching"]})


def test_the_command_prints_the_page_and_draws(tmp_path, monkeypatch):
    root = synthetic.make(tmp_path / "repository")
    monkeypatch.chdir(root)
    picture = tmp_path / "minutes.png"
    done = CliRunner().invoke(app, ["results", "--plot", f"glyphs-5w1s={picture}"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, published.page(root), "")
    assert picture.read_bytes() == plots.minutes_plot("glyphs 5w1s", published.curves(root, "glyphs", "5w1s"))
    for wrong, error in (
        ("glyphs-5w1s", "--plot takes DATASET-SETTING=FILE.png, not 'glyphs-5w1s'"),
        ("omniglot-5w1s=a.png", "no method was evaluated on omniglot-5w1s yet"),
    ):
        done = CliRunner().invoke(app, ["results", "--plot", wrong])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {error}")
