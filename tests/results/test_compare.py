"""The comparison: same episodes or none, every pair, the champion, the same files for the same results."""

import io
import json
import re
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import comparisons
import numpy as np
import pandas
import pytest
import synthetic
from PIL import Image
from rich.console import Console
from scipy import stats

from metashot import files
from metashot.audit.trace import Trace
from metashot.cli import render
from metashot.config.params import Gate
from metashot.errors import MetashotError
from metashot.learning.statistics import Difference
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.registry import runs
from metashot.results import cards, compare, differences, gate, papers, plots
from metashot.results.compare import Comparison
from metashot.results.differences import Pair
from metashot.results.gate import Candidate

METHODS = list(synthetic.ACCURACY)
WIDEST = Difference(1.0, 0.9, 1.1, 0.0012, 3334, 3333, 3333, 4_000_000_000)


def counted(root: Path, method: str, setting: str = "5w1s") -> np.ndarray:
    """Accuracy in each test episode, as the evaluation's file has it."""
    table = pandas.read_parquet(root / f"results/glyphs-5w1s/{method}/episodes.parquet")
    table = table[table.setting == setting]
    return (table.correct / table.queries).to_numpy()


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


def test_every_pair_is_tested_on_the_shared_episodes_and_corrected_for_all(tmp_path):
    root = synthetic.make(tmp_path, {"matching": 0.953, "prototypical": 0.95, "transfer": 0.945})
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    names = [(pair.first, pair.second) for pair in comparison.pairs]
    assert names == list(combinations(["matching", "prototypical", "transfer"], 2))
    tests = [stats.ttest_rel(*(counted(root, name) for name in pair)) for pair in names]
    for pair, test in zip(comparison.pairs, tests, strict=True):
        found, truth = pair.difference, test.confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx([truth.low, truth.high], abs=2e-5)
        assert found.p_value == pytest.approx(test.pvalue, rel=0.1, abs=1e-9)
        assert found.wins + found.ties + found.losses == 1000
    first, second, third = sorted(comparison.pairs, key=lambda pair: pair.difference.p_value)
    assert first.p_corrected == 3 * first.difference.p_value
    assert second.p_corrected == max(first.p_corrected, 2 * second.difference.p_value)
    assert third.p_corrected == max(second.p_corrected, third.difference.p_value)
    assert [pair.apart for pair in (first, second, third)] == [True, False, False]
    assert [row.name for row, _ in comparison.leads] == ["prototypical", "transfer"]
    assert [pair for _, pair in comparison.leads] == comparison.pairs[:2]
    assert json.loads(comparison.json)["pairs"] == [asdict(pair) for pair in comparison.pairs]


def test_only_the_episodes_of_the_setting_itself_are_compared_whatever_their_order(tmp_path):
    root = synthetic.make(tmp_path)
    lock = Lock(root)
    cell = lock.cell("glyphs", "5w1s", "matching")
    before, path = compare.accuracies(lock, cell), root / cell.episodes
    table = pandas.read_parquet(path)
    other = table.assign(setting="5w5s", correct=0)
    pandas.concat([other, table]).sample(frac=1, random_state=0).to_parquet(path)
    lock_text = (root / "dvc.lock").read_text()
    digest = next(out["md5"] for out in cell.evaluate.outs if out["path"] == cell.episodes)
    (root / "dvc.lock").write_text(lock_text.replace(digest, files.md5(path)))
    lock = Lock(root)
    assert (compare.accuracies(lock, lock.cell("glyphs", "5w1s", "matching")) == before).all()


def test_an_incumbent_tested_again_is_in_the_pairs(tmp_path):
    """Better than one present method and worse than another; what it answered is known to the gate alone."""
    root = synthetic.make(tmp_path)
    kept = synthetic.make(root / "champions/glyphs-5w1s/1", {"matching": 0.80})
    (root / "champions/glyphs-5w1s.dvc").write_text(
        f"outs:\n- md5: {files.md5(root / 'champions/glyphs-5w1s')}\n  path: glyphs-5w1s\n"
    )
    again = np.random.default_rng(0).normal(0.9, 0.05, 1000)
    lock = Lock(root)
    cells = lock.cells("glyphs", "5w1s", METHODS)
    decision = gate.decide(
        [Candidate(cell.method, cell.weights, counted(root, cell.method)) for cell in cells],
        Candidate("matching", Lock(kept).cell("glyphs", "5w1s", "matching").weights, again),
        [],
        Gate(min_accuracy=0.0, allowed_regression=0.0),
        manifest=files.md5(root / "data/episodes/glyphs-5w1s/test.parquet"),
        chance=0.2,
    )
    synthetic.enter_decision(root, decision)
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    answered = {method: counted(root, method) for method in METHODS} | {"matching (incumbent)": again}
    assert [row.name for row in comparison.rows] == [
        "prototypical",
        "matching",
        "matching (incumbent)",
        "transfer",
    ]
    assert len(comparison.pairs) == 6
    for pair in comparison.pairs:
        first, second = answered[pair.first], answered[pair.second]
        assert pair.difference.mean == pytest.approx((first - second).mean())
        assert pair.difference.low == pytest.approx(
            pair.difference.mean - 1.96 * stats.sem(first - second), abs=1e-12
        )
        assert pair.difference.wins == (first > second).sum()
        assert pair.difference.losses == (first < second).sum()


def test_cells_of_two_locks_are_compared_where_they_met_the_same_episodes(tmp_path):
    roots = synthetic.make(tmp_path / "one"), synthetic.make(tmp_path / "two", {"matching": 0.93})
    models = [(lock, lock.cell("glyphs", "5w1s", "matching")) for lock in map(Lock, roots)]
    found = compare.pair(*models)
    one, two = (counted(root, "matching") for root in roots)
    assert found.mean == pytest.approx((one - two).mean()) == pytest.approx(-0.02)
    assert -found == compare.pair(*models[::-1])
    lock = models[0][0]
    within = compare.pair((lock, lock.cell("glyphs", "5w1s", "prototypical")), models[0])
    comparison = compare.compare(lock, "glyphs", "5w1s", METHODS)
    assert within == comparison.pairs[0].difference
    (roots[1] / models[1][1].episodes).write_bytes(b"changed")
    with pytest.raises(MetashotError, match=r"episodes\.parquet is not what dvc\.lock names"):
        compare.pair(*models)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("setting", "of different data sets or settings: name two models of one data set and setting"),
        ("data set", "of different data sets or settings: name two models of one data set and setting"),
        ("data", "tested on different samples of glyphs: make both with the same data.glyphs in params.yaml"),
        (
            "episodes",
            "tested on different episodes: evaluate both with the same seed and setting.5w1s in params",
        ),
    ],
)
def test_models_that_met_other_episodes_are_refused_in_one_line(tmp_path, change, message):
    names = {"setting": {"s": "5w5s"}, "data set": {"ds": "omniglot"}}.get(change, {})
    roots = synthetic.make(tmp_path / "one"), synthetic.make(tmp_path / "two", **names)
    if change == "data":
        digest = files.md5(roots[1] / "data/processed/glyphs.parquet")
        text = (roots[1] / "dvc.lock").read_text()
        (roots[1] / "dvc.lock").write_text(text.replace(digest, "f" * 32))
    if change == "episodes":
        synthetic.train(roots[1], "matching", 0.91, manifest="f" * 32)
    where = {"ds": "glyphs", "s": "5w1s"}
    models = [
        (lock, lock.cell(place["ds"], place["s"], "matching"))
        for lock, place in zip(map(Lock, roots), (where, where | names), strict=True)
    ]
    for first, second in (models, models[::-1]):
        with pytest.raises(MetashotError, match=re.escape(message)) as caught:
            compare.pair(first, second)
        said = str(caught.value)
        assert "\n" not in said
        for _, cell in models:
            assert f"{cell.group}/matching ({cell.result[:8]})" in said


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
    shown = render.comparison(replace(comparison, rows=rows), seconds, {"prototypical (incumbent)": 103})
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


def widest(comparison: Comparison) -> Comparison:
    """Every method of the longest name and with all marks, every difference as wide as it can be."""
    rows = [replace(row, method="prototypical", transductive=True, incumbent=True) for row in comparison.rows]
    pairs = [Pair(row.name, row.name, WIDEST, 0.0036) for row in rows]
    return replace(comparison, rows=rows, pairs=pairs, episodes=10_000)


def test_the_leads_fit_a_terminal_and_say_how_many_episodes_are_needed(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    close = Difference(0.001, -0.0005, 0.0025, 0.19, 400, 350, 250, 4000)
    even = Difference(0.0, -0.0005, 0.0005, 1.0, 300, 400, 300, None)
    pairs = [
        replace(pair, difference=d) for pair, d in zip(comparison.pairs, (close, even, even), strict=True)
    ]
    pairs[0] = replace(pairs[0], p_corrected=0.0004)
    pairs[1] = replace(pairs[1], p_corrected=1.0)
    for shown, lines in (
        (
            replace(comparison, pairs=pairs),
            [
                "matching +0.10 ± 0.15 < 0.001 400 / 350 / 250 4,000",
                "transfer +0.00 ± 0.05 1.000 300 / 400 / 300 ∞",
            ],
        ),
        (
            widest(comparison),
            ["prototypical †‡ +100.00 ± 10.00 0.004 3,334 / 3,333 / 3,333 4,000,000,000"] * 2,
        ),
    ):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(render.pairs(shown))
        text = console.export_text()
        assert [" ".join(line.split()) for line in text.splitlines()[4:6]] == lines
        assert f"(5 %, power 80 %); {shown.episodes:,} there" in text
        assert text.splitlines()[0].startswith(f"{shown.rows[0].label} against each of the others")
        assert all(len(line) <= 80 for line in text.splitlines())
        assert len(text.splitlines()) == 9  # nothing is broken over two lines
        assert "…" not in text


def test_the_overview_holds_the_leads_unless_there_is_one_method(tmp_path):
    root = synthetic.make(tmp_path)
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    overview = cards.overview(comparison)
    assert "| prototypical against | difference | p | win / tie / loss | needed |" in overview
    for row, pair in comparison.leads:
        found = pair.difference
        assert (
            f"| {row.label} | {100 * found.mean:+.2f} ± {100 * found.ci95:.2f} | < 0.001 | "
            f"{found.wins:,} / {found.ties:,} / {found.losses:,} | {found.needed:,} |\n"
        ) in overview + "\n"
    assert "against" not in cards.overview(replace(comparison, rows=comparison.rows[:1], pairs=[]))


def test_the_plot_of_the_leads_is_whole_and_needs_two_methods(tmp_path):
    comparison = compare.compare(Lock(synthetic.make(tmp_path)), "glyphs", "5w1s", METHODS)
    picture = plots.differences_plot(widest(comparison))
    assert picture == plots.differences_plot(widest(comparison))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.info.keys() <= {"dpi"}  # no date, no version
        edges = np.asarray(image.convert("L"))
        assert min(edges[:, 0].min(), edges[:, -1].min(), edges[0].min(), edges[-1].min()) == 255  # uncut
    with pytest.raises(MetashotError, match="glyphs-5w1s has one method only"):
        plots.differences_plot(replace(comparison, rows=comparison.rows[:1], pairs=[]))


def test_curves_are_those_of_the_journals_in_minutes(tmp_path):
    root = synthetic.make(tmp_path)
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", METHODS)
    found = compare.curves(Lock(root), comparison)
    assert sorted(found) == sorted(METHODS)
    for method, points in found.items():
        journal = root / f"records/train/glyphs-5w1s/{method}/journal.jsonl"
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        began = json.loads(journal.with_name("record.json").read_text())["started"]
        expected = [
            (x["time"], x["metrics"]["val_accuracy"]) for x in lines if "val_accuracy" in x["metrics"]
        ]
        assert [accuracy for _, accuracy in points] == [accuracy for _, accuracy in expected]
        assert [minutes for minutes, _ in points] == pytest.approx(
            [(time - began) / 60 for time, _ in expected]
        )
    picture = plots.minutes_plot("glyphs 5w1s", found)
    assert picture == plots.minutes_plot("glyphs 5w1s", found)
    assert picture != plots.minutes_plot("glyphs 5w1s", {"matching": found["matching"]})


@pytest.mark.parametrize("classes", ["shared", "disjoint"])
def test_every_result_says_whether_its_test_classes_are_those_of_training(tmp_path, classes):
    root = synthetic.make(tmp_path, ds="flowers", classes=classes)
    comparison = compare.compare(Lock(root), "flowers", "5w1s", METHODS)
    document = Document.of_cell(Lock(root), Lock(root).cell("flowers", "5w1s", "matching"))
    traced = Trace("flowers-5w1s/1", [], 0, None, None, None, "run", document)
    console = Console(file=io.StringIO(), width=80)
    console.print(render.comparison(comparison, dict.fromkeys(METHODS, 1.0), {}))
    console.print(render.trace(traced))
    table, _, traced_part = console.file.getvalue().partition("Result")
    known = classes == "shared"
    assert runs.run_tags(document)["metashot.known_classes"] == str(known).lower()
    assert json.loads(comparison.json)["known_classes"] is known
    assert ("made up (known classes)" in traced_part) is known
    assert ("samples of the classes that it was trained on" in cards.model_card(document)) is known
    assert (" on flowers (known classes), 5-way" in cards.model_card(document)) is known
    assert (
        "classes of the same data set that training did not see" in cards.model_card(document)
    ) is not known
    assert ("## flowers (known classes), trained for 5w1s" in papers.page(root)) is known
    for page in (table, cards.overview(comparison)):
        assert ("flowers (known classes)" in page) is known
        assert ("known classes: tested on new samples of the classes" in page) is known


def test_a_comparison_is_told_in_words_and_numbers() -> None:
    made = comparisons.made()
    assert made.group == "flowers-5w1s"
    assert made.data == "flowers (synthetic data, known classes)"
    assert made.protocol == "5-way 1-shot, 15 queries per class, 1,000 test episodes"
    assert [row.name for row in made.rows[:3]] == ["maml", "prototypical", "prototypical (incumbent)"]
    assert [row.label for row in made.rows[:3]] == ["maml †", "prototypical", "prototypical ‡"]
    assert replace(made.rows[0], incumbent=True).label == "maml †‡"
    assert [replace(made, n_way=n).chance for n in (2, 4, 5)] == [0.5, 0.25, 0.2]
    assert made.footnotes == [compare.KNOWN, compare.TRANSDUCTIVE, compare.INCUMBENT]
    assert replace(made, rows=made.rows[1:2], known_classes=False).footnotes == []
    assert made.leads == list(zip(made.rows[1:], made.pairs, strict=True))
    assert made.champion == made.rows[2]
    assert made.row(made.decision.challenger) == made.rows[0]
    assert made.row(replace(made.decision.challenger, model="unknown")) is None
    assert comparisons.made(champion=None).champion is None


def test_two_differ_below_five_percent() -> None:
    pairs = [replace(comparisons.made().pairs[0], p_corrected=p) for p in (0.0499, 0.05, 0.0501, 1.0)]
    assert [pair.apart for pair in pairs] == [True, False, False, False]


def test_a_pair_is_formatted_as_tables_show_it() -> None:
    pair = replace(comparisons.made().pairs[0], difference=comparisons.FAR[1])
    assert [differences.shown(replace(pair, p_corrected=p)) for p in (0.00099, 0.001, 0.5)] == [
        ("+0.63 ± 0.32", p, "420 / 230 / 350", "207") for p in ("< 0.001", "0.001", "0.500")
    ]
    many = Difference(-0.5, -0.75, -0.25, 0.0, 0, 12_345, 6_789, None)
    assert differences.shown(replace(pair, difference=many))[::3] == ("-50.00 ± 25.00", "∞")
    assert differences.shown(replace(pair, difference=many))[2] == "0 / 12,345 / 6,789"


def test_the_report_file_is_sorted_and_for_people() -> None:
    text = comparisons.made().json
    assert text.startswith('{\n  "chance": 0.2,\n  "dataset": "flowers",\n  "decision": {\n    "allowed_')
    assert text.endswith(',\n  "setting": "5w1s",\n  "synthetic": true\n}\n')
    keys = list(json.loads(text))
    assert keys == sorted(keys)


SHAPE = {"n_way": 5, "k_shot": 1, "n_query": 15, "episodes": 1000, "manifest": "m"}


@pytest.mark.parametrize("key", SHAPE)
@pytest.mark.parametrize("place", range(3))
def test_whatever_differs_between_the_episodes_is_named(monkeypatch, key: str, place: int) -> None:
    cells = [
        SimpleNamespace(method=method, group="flowers-5w1s") for method in ("maml", "siamese", "reptile")
    ]
    lock = SimpleNamespace(cells=lambda *of: cells)
    measured = [SimpleNamespace(**SHAPE) for _ in cells]
    monkeypatch.setattr(compare.document, "metrics", lambda _, cell: measured[cells.index(cell)])
    assert compare.results(lock, "flowers", "5w1s", []) == list(zip(cells, measured, strict=True))
    setattr(measured[place], key, "other")
    other = cells[place or 1].method
    with pytest.raises(MetashotError) as caught:
        compare.results(lock, "flowers", "5w1s", [])
    assert str(caught.value) == (
        f"{other} and maml were not tested on the same episodes of flowers-5w1s ({key} differs): "
        "run `dvc repro register@flowers-5w1s`"
    )


def test_the_incumbent_is_found_among_the_adopted_champions(monkeypatch) -> None:
    adopted = [(name, SimpleNamespace(weights=weights)) for name, weights in ("xa", "yb", "za")]
    monkeypatch.setattr(compare.lockfile, "adopted", lambda *where: adopted)
    lock = SimpleNamespace(root=None)
    assert compare._kept(lock, "flowers", "5w1s", "b") == adopted[1]
    assert compare._kept(lock, "flowers", "5w1s", "a") == adopted[2]
    with pytest.raises(MetashotError) as caught:
        compare._kept(lock, "flowers", "5w1s", "c")
    assert str(caught.value) == (
        "champions/flowers-5w1s has no longer the incumbent of reports/flowers-5w1s-gate.json: "
        "run `dvc repro register@flowers-5w1s`"
    )


def test_equal_models_stand_in_the_order_of_their_names_with_the_time_each_took(tmp_path) -> None:
    root = synthetic.make(tmp_path, {"transfer": 0.9, "matching": 0.9})
    lock = Lock(root)
    comparison = compare.compare(lock, "glyphs", "5w1s", ["transfer", "matching"])
    assert [row.name for row in comparison.rows] == ["matching", "transfer"]
    assert comparison.rows[0].extra == {"5w5s": {"accuracy": 0.92, "ci95": 0.003, "episodes": 1000}}
    assert [row.incumbent for row in comparison.rows] == [False, False]
    assert compare.train_seconds(lock, comparison) == {"matching": 41.5, "transfer": 41.5}
    only = compare.results(lock, "glyphs", "5w1s", ["matching"])
    assert [cell.method for cell, _ in only] == ["matching"]
