"""The comparison: same episodes or none, the champion's rule, the same files for the same results."""

import json

import pytest
import synthetic
from PIL import Image
from rich.console import Console
from ruamel.yaml import YAML
from typer.testing import CliRunner

from metashot import compare
from metashot.cli import app
from metashot.errors import MetashotError
from metashot.lineage import Lock

METHODS = list(synthetic.ACCURACY)


def replace_cell(root, method, accuracy, **changes):
    """Train and evaluate one method again, by hand."""
    yaml = YAML(typ="safe")
    lock = yaml.load((root / "dvc.lock").read_text())
    lock["stages"] |= synthetic.cell(root, "glyphs", "5w1s", method, accuracy, 1_790_001_000.0, **changes)
    with (root / "dvc.lock").open("w") as file:
        yaml.dump(lock, file)


def test_the_best_above_chance_is_champion_and_rows_are_best_first(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    assert [row.method for row in comparison.rows] == ["prototypical", "matching", "transfer"]
    assert comparison.decision.champion == "prototypical"
    assert comparison.synthetic
    assert comparison.chance == 0.2


def test_no_champion_where_no_interval_lies_above_chance(tmp_path):
    root = synthetic.make(tmp_path, {"matching": 0.2035, "transfer": 0.18})  # 0.2035 - 0.004 < 1/5
    decision = compare.compare(Lock(root), "glyphs", "5w1s", ["matching", "transfer"]).decision
    assert decision.champion is None
    assert decision.reasons == [
        "matching: 20.35 ± 0.40 % is not above chance (20.0%) with 95 % confidence",
        "transfer: 18.00 ± 0.40 % is not above chance (20.0%) with 95 % confidence",
    ]


def test_methods_tested_on_other_episodes_are_not_compared(tmp_path):
    root = synthetic.make(tmp_path)
    replace_cell(root, "transfer", 0.99, manifest="f" * 32)
    with pytest.raises(MetashotError, match=r"transfer and matching were not tested on the same episodes"):
        compare.compare(Lock(root), "glyphs", "5w1s", METHODS)


def test_the_report_is_the_same_bytes_and_says_what_it_shows(tmp_path):
    root = synthetic.make(tmp_path / "repository")
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    for name in ("one", "two"):
        compare.write_report(comparison, tmp_path / name)
    for suffix in ("json", "png"):
        one, two = (tmp_path / name / f"glyphs-5w1s.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "glyphs-5w1s.json",
        "glyphs-5w1s.png",
    ]
    said = json.loads((tmp_path / "one/glyphs-5w1s.json").read_text())
    assert said["decision"]["champion"] == "prototypical"
    assert [row["accuracy"] for row in said["rows"]] == [0.95, 0.91, 0.78]
    assert "seconds" not in json.dumps(said)  # clock times would change the report
    with Image.open(tmp_path / "one/glyphs-5w1s.png") as picture:
        assert picture.info.keys() <= {"dpi"}  # no date, no version
        assert picture.width > 800


def test_the_table_fits_a_terminal_and_marks_the_champion(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(compare.table(comparison, dict.fromkeys(METHODS, 185.0), {"prototypical": 3}))
    text = console.export_text()
    line = next(line for line in text.splitlines() if "★" in line)
    assert line.split("  ")[0].strip() == "prototypical ★"
    assert all(part in line for part in ("95.00 ± 0.40 %", "45.00 ± 0.60 %", "3 min 05 s", "111,936", "v3"))
    assert "synthetic data" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text


def test_the_command_shows_the_table_or_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(synthetic.make(tmp_path))
    done = CliRunner().invoke(app, ["compare", "glyphs", "5w1s"])
    assert (done.exit_code, "prototypical ★" in done.output) == (0, True)
    done = CliRunner().invoke(app, ["compare", "omniglot", "5w1s"])
    assert done.exit_code == 1
    assert done.stderr == (
        "error: no method was evaluated on omniglot-5w1s yet: run `dvc repro register@omniglot-5w1s`\n"
    )


def test_run_refuses_a_data_set_that_params_do_not_describe(tmp_path, monkeypatch):
    root = synthetic.make(tmp_path)
    before = (root / "params.yaml").read_text()
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["run", "--data", "imagenet"])
    assert done.exit_code == 1
    assert done.stderr == "error: params.yaml has no data.imagenet (it has glyphs): describe it there first\n"
    assert (root / "params.yaml").read_text() == before


def test_run_lists_a_described_data_set_keeps_comments_and_makes_only_it(tmp_path, monkeypatch):
    """Real DVC; the stage succeeds for glyphs, whose results are there, and fails for omniglot."""
    root = synthetic.make(tmp_path)
    (root / "params.yaml").write_text(
        "datasets: [glyphs] # what to make\nsettings: [5w1s]\nmethods: [matching]\n"
        "data:\n  glyphs: {}\n  omniglot: {} # real\n"
    )
    (root / "dvc.yaml").write_text(
        "stages:\n  register:\n    matrix: {dataset: '${datasets}', setting: '${settings}'}\n"
        "    cmd: echo ${item.dataset} >> made.txt && test ${item.dataset} = glyphs\n"
    )
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["run", "--data", "omniglot"])
    assert "added omniglot to datasets in params.yaml" in done.output
    assert "datasets: [glyphs, omniglot] # what to make" in (root / "params.yaml").read_text()
    assert "omniglot: {} # real" in (root / "params.yaml").read_text()
    assert (root / "made.txt").read_text() == "omniglot\n"
    assert done.stderr.endswith("error: dvc repro register@omniglot-5w1s failed (status 255); see above\n")

    done = CliRunner().invoke(app, ["run", "--data", "glyphs", "--setting", "5w1s"])
    assert (root / "made.txt").read_text() == "omniglot\nglyphs\n"
    assert (done.exit_code, "matching ★" in done.output) == (0, True)
