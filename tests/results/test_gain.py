"""What meta-training gained: SciPy's paired test on the evaluations' own counts, wherever it is shown."""

import io
import json
from dataclasses import replace
from pathlib import Path

import comparisons
import numpy as np
import pandas
import pytest
import synthetic
from rich.console import Console
from scipy import stats

from metashot import files
from metashot.audit.trace import Trace
from metashot.cli import render
from metashot.config.params import Gate
from metashot.learning.statistics import Difference
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.registry import runs
from metashot.results import cards, compare, gate, papers
from metashot.results.compare import Comparison
from metashot.results.differences import Gain
from metashot.results.gate import Candidate

ACCURACY = {"matching": 0.91, "prototypical": 0.95, "ridge": 0.93, "transfer": 0.78, "centroid": 0.90}
METHODS = list(ACCURACY)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.make(tmp_path_factory.mktemp("gain") / "repository", ACCURACY)


def compared(root: Path, methods: list[str] = METHODS) -> Comparison:
    return compare.compare(Lock(root), "glyphs", "5w1s", methods)


def counted(root: Path, method: str, setting: str) -> np.ndarray:
    table = pandas.read_parquet(root / f"results/glyphs-5w1s/{method}/episodes.parquet")
    table = table[table.setting == setting]
    return (table.correct / table.queries).to_numpy()


def printed(root: Path, comparison: Comparison) -> list[str]:
    """The lines of the table on a terminal of 80 columns."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render.comparison(comparison, dict.fromkeys(METHODS, 1.0), {}))
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_the_best_of_both_groups_are_paired_on_the_episodes_of_every_setting(repository: Path) -> None:
    gains = compared(repository).gains
    assert [(gain.setting, gain.trained, gain.training_free) for gain in gains] == [
        ("5w1s", "prototypical", "ridge"),
        ("5w5s", "prototypical", "ridge"),
    ]
    for gain in gains:
        test = stats.ttest_rel(
            *(counted(repository, name, gain.setting) for name in ("prototypical", "ridge"))
        )
        truth, found = test.confidence_interval(0.95), gain.difference
        assert found.mean == pytest.approx(0.02, abs=1e-6)
        assert [found.low, found.high] == pytest.approx([truth.low, truth.high], abs=2e-5)
    (own, further) = (gain.difference for gain in gains)
    assert own != further


def test_the_best_of_a_further_setting_may_be_others(tmp_path: Path) -> None:
    root = synthetic.make(tmp_path, ACCURACY)
    for method, accuracy in (("matching", 0.99), ("centroid", 1.0)):
        cell = Lock(root).cell("glyphs", "5w1s", method)
        table = pandas.read_parquet(root / cell.episodes)
        table.loc[table.setting == "5w5s", "correct"] = int(accuracy * 10**6)
        table.to_parquet(root / cell.episodes)
        synthetic.enter(root, cell.evaluate.stage)
    own, further = compared(root).gains
    assert (own.trained, own.training_free) == ("prototypical", "ridge")
    assert (further.trained, further.training_free) == ("matching", "centroid")
    assert (further.difference.mean, further.difference.losses) == (pytest.approx(-0.01), 1000)


def test_other_episodes_of_a_further_setting_are_not_compared(tmp_path: Path) -> None:
    root = synthetic.make(tmp_path, ACCURACY)
    lock = Lock(root)
    name = lock.cell("glyphs", "5w1s", "ridge").evaluate.stage
    for dep in lock.entries[name].deps:
        if dep["path"] == "data/episodes/glyphs-5w1s":
            text = (root / "dvc.lock").read_text()
            before, stage, after = text.partition(f"{name}:")
            (root / "dvc.lock").write_text(before + stage + after.replace(dep["md5"], f"{'0' * 32}.dir", 1))
    assert [gain.setting for gain in compared(root).gains] == ["5w1s"]


@pytest.mark.parametrize("methods", [["matching", "transfer"], ["ridge", "centroid"]])
def test_one_group_alone_says_nothing_of_gains(tmp_path: Path, methods: list[str]) -> None:
    root = synthetic.make(tmp_path, {method: ACCURACY[method] for method in methods})
    comparison = compared(root, methods)
    assert (comparison.gains, comparison.gained, comparison.headline) == ([], [], "")
    shown = [*printed(root, comparison), cards.overview(comparison), papers.page(root)]
    assert "meta-training" not in " ".join(shown).lower()
    assert not {"trained", "training-free features"} & set(shown)
    assert comparison.gain_metrics == {}


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.0078, 0.0168, "gained +1.23 ± 0.45 points over the best without it (maml against ridge)"),
        (-0.0168, -0.0078, "lost 1.23 ± 0.45 points against the best without it (maml against ridge)"),
        (-0.0033, 0.0057, "gained nothing that can be told from 0: +0.12 ± 0.45 points (maml against ridge)"),
        (0.0, 0.009, "gained nothing that can be told from 0: +0.45 ± 0.45 points (maml against ridge)"),
        (-0.009, 0.0, "gained nothing that can be told from 0: -0.45 ± 0.45 points (maml against ridge)"),
    ],
)
def test_a_gain_in_a_sentence(low: float, high: float, sentence: str) -> None:
    difference = Difference((low + high) / 2, low, high, 0.5, 0, 0, 0, None)
    assert Gain("5w1s", "maml", "ridge", difference).sentence == f"meta-training {sentence}"


def test_an_incumbent_belongs_to_the_group_of_its_method(tmp_path: Path) -> None:
    """A ridge of earlier times is the best without training; what it gained with five shots is not known."""
    root = synthetic.make(tmp_path, ACCURACY)
    kept = synthetic.make(root / "champions/glyphs-5w1s/1", {"ridge": 0.80})
    (root / "champions/glyphs-5w1s.dvc").write_text(
        f"outs:\n- md5: {files.md5(root / 'champions/glyphs-5w1s')}\n  path: glyphs-5w1s\n"
    )
    again = np.random.default_rng(0).normal(0.97, 0.01, 1000)
    cells = Lock(root).cells("glyphs", "5w1s", METHODS)
    decision = gate.decide(
        [Candidate(cell.method, cell.weights, counted(root, cell.method, "5w1s")) for cell in cells],
        Candidate("ridge", Lock(kept).cell("glyphs", "5w1s", "ridge").weights, again),
        [],
        Gate(min_accuracy=0.0, allowed_regression=0.0),
        manifest=files.md5(root / "data/episodes/glyphs-5w1s/test.parquet"),
        chance=0.2,
    )
    synthetic.enter_decision(root, decision)
    comparison = compared(root)
    assert [row.label for row in comparison.groups["training-free"]] == ["ridge ‡", "ridge", "centroid"]
    own, further = comparison.gains
    assert (own.trained, own.training_free) == ("prototypical", "ridge (incumbent)")
    truth = counted(root, "prototypical", "5w1s") - again
    assert own.difference.mean == pytest.approx(truth.mean())
    assert own.difference.ci95 == pytest.approx(1.96 * stats.sem(truth))
    assert own.sentence.startswith("meta-training lost ")
    assert (further.trained, further.training_free) == ("prototypical", "ridge")
    assert comparison.champion == comparison.rows[0]  # the gate does not ask what was trained


def test_the_terminal_shows_groups_with_their_features_and_the_gain(repository: Path) -> None:
    comparison = compared(repository)
    lines = printed(repository, comparison)
    rows = [
        "trained",
        "prototypical ★ 95.00 ± 0.40 % 45.00 ± 0.60 % 1 s 111,936 -",
        "matching 91.00 ± 0.40 % 45.00 ± 0.60 % 1 s 111,936 -",
        "transfer 78.00 ± 0.40 % 45.00 ± 0.60 % 1 s 111,936 -",
        "training-free features",
        "ridge 93.00 ± 0.40 % hog 1 s 0 -",
        "centroid 90.00 ± 0.40 % pixels 1 s 0 -",
    ]
    start = lines.index("trained")
    assert [line for line in lines[start:] if line.strip("─")][: len(rows)] == rows
    assert set(lines[start + 4]) == {"─"}  # between the groups
    text = " ".join(lines)
    assert "meta-training gained +2.00 ± 0.5" in text
    assert "points over the best without it (prototypical against ridge)" in text
    assert "5w5s: meta-training gained +2.00 ± 0.5" in text
    assert compare.CHOSEN in text


def test_ten_methods_with_all_marks_fit_a_terminal(repository: Path) -> None:
    comparison = comparisons.grouped(encoder="pretrained encoder: words, trained on letters")
    console = Console(width=80, record=True, file=io.StringIO())
    wide = {"accuracy": 1.0, "transductive": True, "incumbent": True, "parameters": 1_119_360}
    rows = [
        replace(
            row,
            **wide,
            ci95=min(row.ci95, 0.0999),
            untrained_ci95=row.untrained_ci95 and min(row.untrained_ci95, 0.0999),
            features="series_statistics" if row.features == "hog" else row.features,
        )
        for row in comparison.rows
    ]
    seconds = {row.name: 125 * 60 + 59.0 for row in rows}
    console.print(render.comparison(replace(comparison, rows=rows), seconds, {"maml (incumbent)": 103}))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "prototypical †‡§" in text
    assert text.count(" series_statistics ") == 2
    parts = [" ".join(line.split()) for line in text.splitlines()]
    at = parts.index("minirocket")
    assert parts[at - 1] == "statistics_"
    assert " outline_ " in parts[at - 2]
    assert "flowers (synthetic data, pretrained encoder §)" in text
    assert "§ pretrained encoder: words, trained on letters" in text


def test_the_report_and_mlflow_have_the_gain(repository: Path) -> None:
    comparison = compared(repository)
    written = json.loads(comparison.json)
    assert [row["group"] for row in written["rows"]] == [
        "trained" if row["method"] in ("matching", "prototypical", "transfer") else "training-free"
        for row in written["rows"]
    ]
    assert {row["method"]: row["features"] for row in written["rows"]}["centroid"] == "pixels"
    own, further = (gain["difference"] for gain in written["gains"])
    half = [(one["high"] - one["low"]) / 2 for one in (own, further)]
    assert comparison.gain_metrics == {
        "gain": own["mean"],
        "gain_ci95": half[0],
        "gain_5w5s": further["mean"],
        "gain_ci95_5w5s": half[1],
    }
    overview = cards.overview(comparison)
    assert f"\n\n**M{comparison.headline[1:]}.**\n\n" in overview
    table = overview.partition("|--:|\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split("|")[2].strip() for line in table] == [
        "*trained*",
        "prototypical",
        "matching",
        "transfer",
        "*training-free*",
        "ridge on hog",
        "centroid on pixels",
    ]
    assert "5w5s: meta-training gained" in overview


def test_a_card_says_that_nothing_was_trained_and_what_was_chosen(repository: Path) -> None:
    lock = Lock(repository)
    ridge, trained = (Document.of_cell(lock, lock.cell("glyphs", "5w1s", m)) for m in ("ridge", "matching"))
    card = cards.model_card(ridge)
    assert (
        "**Training.** Nothing was trained: features `hog`, with strength 0.1 and scale 3.98107, chosen on "
        "the validation episodes in 42 s on a processor (cpu); commit cccccccccc.\n"
    ) in card
    assert "untrained" not in card
    assert "111,936 parameters, 20 outer steps in 42 s" in cards.model_card(trained)
    assert [cards.labels(one)["group"] for one in (ridge, trained)] == ["training-free", "trained"]
    assert runs.run_tags(ridge)["group"] == "training-free"
    console = Console(file=io.StringIO(), width=80)
    console.print(render.trace(Trace("glyphs-5w1s/1", [], 0, None, None, None, "run", ridge)))
    assert "none, made in 42 s" in console.file.getvalue()


def test_the_page_of_results_has_groups_and_the_gain_of_each_shape(repository: Path) -> None:
    page = papers.page(repository)
    one_shot, five_shot = (page.partition(f"| 5-way {k}-shot")[2].split("\n\n")[:2] for k in (1, 5))
    assert [line.split("|")[1].strip() for line in one_shot[0].splitlines()[2:]] == [
        "*trained*",
        "prototypical",
        "matching",
        "transfer",
        "*training-free*",
        "ridge on hog",
        "centroid on pixels",
    ]
    own, further = compared(repository).gains
    assert one_shot[1] == f"M{own.sentence[1:]}."
    assert five_shot[1] == f"M{further.sentence[1:]}."
    assert "| ridge | 0 |  | 42 s |" in page
    assert f"\n\nT{compare.CHOSEN[1:]}.\n" in page


@pytest.mark.parametrize("encoded", [False, True])
def test_rows_on_vectors_of_a_pretrained_encoder_are_marked(tmp_path: Path, encoded: bool) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder/weights").write_text("of words")
    root = synthetic.make(tmp_path / "root", ACCURACY, encoder=tmp_path / "encoder" if encoded else None)
    comparison = compared(root)
    note = "§ pretrained encoder: words, trained on letters; may have seen classes of these data"
    for page in (" ".join(printed(root, comparison)), cards.overview(comparison), papers.page(root)):
        assert ("prototypical §" in page) == encoded
        assert (note in page) == encoded
        assert ("glyphs (synthetic data, pretrained encoder §)" in page) == encoded
    assert ("ridge on hog §" in cards.overview(comparison)) == encoded
