"""The comparison: same episodes or none, the champion's rule, the same files for the same results."""

import json
from dataclasses import replace

import pytest
import synthetic
from PIL import Image
from rich.console import Console

from metashot import cards, compare
from metashot.errors import MetashotError
from metashot.lineage import Lock

METHODS = list(synthetic.ACCURACY)


def test_the_best_above_chance_is_champion_and_rows_are_best_first(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    assert [row.method for row in comparison.rows] == ["prototypical", "matching", "transfer"]
    assert comparison.champion == comparison.rows[0]
    assert comparison.synthetic
    assert comparison.chance == 0.2


def test_no_champion_where_no_interval_lies_above_chance(tmp_path):
    root = synthetic.make(tmp_path, {"matching": 0.2035, "transfer": 0.18})  # 0.2035 - 0.004 < 1/5
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", ["matching", "transfer"])
    assert comparison.champion is None
    assert comparison.decision.reasons == [
        "the challenger, matching, has 20.35 ± 0.40 %: its 95 % interval does not lie above chance (20.0%)",
        "there is no champion",
    ]


def test_methods_tested_on_other_episodes_are_not_compared(tmp_path):
    root = synthetic.make(tmp_path)
    synthetic.train(root, "transfer", 0.99, manifest="f" * 32)
    with pytest.raises(MetashotError, match=r"transfer and matching were not tested on the same episodes"):
        compare.compare(Lock(root), "glyphs", "5w1s", METHODS)


def test_results_that_the_gate_has_not_seen_are_not_compared(tmp_path):
    root = synthetic.make(tmp_path)
    synthetic.train(root, "transfer", 0.99)
    with pytest.raises(MetashotError, match="the gate judged earlier results of glyphs-5w1s: run `dvc"):
        compare.compare(Lock(root), "glyphs", "5w1s", METHODS)


def test_the_report_is_the_same_bytes_and_says_what_it_shows(tmp_path):
    root = synthetic.make(tmp_path / "repository")
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    for name in ("one", "two"):
        cards.write_report(comparison, tmp_path / name)
    for suffix in ("json", "png"):
        one, two = (tmp_path / name / f"glyphs-5w1s.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "glyphs-5w1s.json",
        "glyphs-5w1s.png",
    ]
    said = json.loads((tmp_path / "one/glyphs-5w1s.json").read_text())
    assert said["decision"]["champion"]["method"] == "prototypical"
    assert [row["accuracy"] for row in said["rows"]] == [0.95, 0.91, 0.78]
    assert "seconds" not in json.dumps(said)  # clock times would change the report
    with Image.open(tmp_path / "one/glyphs-5w1s.png") as picture:
        assert picture.info.keys() <= {"dpi"}  # no date, no version
        assert picture.width > 800


def test_the_table_fits_a_terminal_and_marks_the_champion(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    # the widest of everything
    wide = {"accuracy": 1.0, "transductive": True, "parameters": 1_119_360}
    rows = [replace(row, **wide, incumbent=row == comparison.champion) for row in comparison.rows]
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    seconds = {"matching": 41.4, "prototypical (incumbent)": 59 * 60 + 59.0, "transfer": 125 * 60 + 59.0}
    shown = compare.table(replace(comparison, rows=rows), seconds, {"prototypical (incumbent)": 103})
    console.print(shown)
    text = console.export_text()
    assert [" ".join(line.split()) for line in text.splitlines()[4:7]] == [
        "prototypical †‡ ★ 100.00 ± 0.40 % 45.00 ± 0.60 % 59 min 59 s 1,119,360 v103",
        "matching † 100.00 ± 0.40 % 45.00 ± 0.60 % 41 s 1,119,360 -",
        "transfer † 100.00 ± 0.40 % 45.00 ± 0.60 % 2 h 05 min 1,119,360 -",
    ]
    title, *_ = text.splitlines()
    assert title == ("glyphs (synthetic data): 5-way 1-shot, 15 queries per class, 1,000 test episodes")
    assert compare.TRANSDUCTIVE in text
    assert compare.INCUMBENT in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
