"""What MLflow says of results, word for word, on numbers written by hand."""

from dataclasses import replace
from pathlib import Path

import comparisons
import pytest
import synthetic

from metashot.data.kinds import KINDS
from metashot.learning.statistics import Difference
from metashot.lineage import metrics
from metashot.lineage.document import CrossDocument, Document
from metashot.lineage.lockfile import Lock
from metashot.lineage.metrics import CrossMetrics
from metashot.lineage.origin import DataFacts
from metashot.results import cards, compare

LEAD = Difference(0.0063, 0.0031, 0.0095, 0.0126, 1420, 1230, 1350, 2071)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    lock = Lock(synthetic.make(tmp_path_factory.mktemp("cards") / "repository"))
    return Document.of_cell(lock, lock.cell("glyphs", "5w1s", "matching"))


def test_the_overview_names_the_champion_every_model_and_every_lead() -> None:
    difference = comparisons.CLOSE[:2]
    comparison = comparisons.made(difference, (1.0, 0.0004))
    comparison = replace(comparison, synthetic=False)
    assert cards.overview(comparison) == "\n".join(
        [
            "Champion: prototypical (incumbent), 98.08 ± 0.31 %. Few-shot classification on flowers (known "
            "classes): 5-way 1-shot, 15 queries per class, 1,000 test episodes.",
            "",
            "| | method | accuracy (95 % interval) | untrained backbone | parameters |",
            "|:--|:--|--:|--:|--:|",
            "|  | maml † | 98.71 ± 0.21 % | 22.00 ± 3.00 % | 111,936 |",
            "|  | prototypical | 98.59 ± 0.24 % | 45.30 ± 1.00 % | 111,936 |",
            "| ★ | prototypical ‡ | 98.08 ± 0.31 % | 44.80 ± 1.00 % | 111,936 |",
            "",
            "the first reason.",
            "",
            "the second reason.",
            "",
            f"{compare.KNOWN}.",
            "",
            f"{compare.TRANSDUCTIVE}.",
            "",
            f"{compare.INCUMBENT}.",
            "",
            "| maml † against | difference | p | win / tie / loss | needed |",
            "|:--|--:|--:|--:|--:|",
            "| prototypical | +0.00 ± 0.21 | 1.000 | 300 / 400 / 300 | ∞ |",
            "| prototypical ‡ | +0.04 ± 0.18 | < 0.001 | 330 / 350 / 320 | 160,481 |",
            "",
            "difference: points, with 95 % interval; p: corrected for all pairs (Holm).",
            "",
            "needed: episodes to tell the two apart (5 %, power 80 %); 1,000 there.",
        ]
    )
    nobody = cards.overview(comparisons.made((), (), None))
    assert nobody.startswith("Champion: none. Few-shot classification on flowers (synthetic data, known")
    assert "against" not in nobody


@pytest.mark.parametrize(
    ("champion", "said"),
    [
        (0, "champion maml, 98.71 %"),
        (2, "champion prototypical (incumbent), best maml, 98.71 %"),
        (None, "no champion, best maml, 98.71 %"),
    ],
)
def test_the_headline_names_the_champion_and_the_best(champion: int | None, said: str) -> None:
    assert cards.headline(comparisons.made(champion=champion)) == said


@pytest.mark.parametrize(
    ("difference", "p", "needed"),
    [
        (LEAD, "p = 0.013", "takes 2,071 episodes"),
        (replace(LEAD, p_value=0.001, needed=None), "p = 0.001", "takes no number of episodes"),
        (replace(LEAD, p_value=0.00099, needed=2), "p < 0.001", "takes 2 episodes"),
        (replace(LEAD, p_value=1.0), "p = 1.000", "takes 2,071 episodes"),
    ],
)
def test_two_versions_are_compared_in_a_sentence(difference: Difference, p: str, needed: str) -> None:
    assert cards.versus("one", "other", difference) == (
        f"one minus other: +0.63 ± 0.32 percentage points (95 % interval), {p}. In 1,420 episodes the first "
        "is more accurate, in 1,230 equally, in 1,350 less. To tell them apart (5 %, power 80 %) "
        f"{needed}."
    )


def test_a_result_is_known_by_its_labels(document: Document) -> None:
    assert cards.labels(document) == {
        "method": "matching",
        "group": "trained",
        "setting": "5w1s",
        "accuracy": "91.00 ± 0.40 %",
        "data": f"glyphs {document.data_md5[:8]}",
    }
    assert len(document.data_md5) == 32


def test_a_model_card_states_data_protocol_numbers_limits_and_use(document: Document) -> None:
    git = replace(document.training.git, commit="0123456789abcdef")
    document = replace(document, result="fedcba9876543210" * 4, training=replace(document.training, git=git))
    assert cards.model_card(document) == "\n\n".join(
        [
            "**matching: 91.00 ± 0.40 %** on glyphs (synthetic data), 5-way 1-shot, 15 queries per class, "
            "chance 20.0%.",
            "| test episodes of | accuracy (95 % interval) | episodes |\n|:--|--:|--:|\n"
            "| 5-way 1-shot | 91.00 ± 0.40 % | 1,000 |\n"
            "| 5w5s, same model | 93.00 ± 0.30 % | 1,000 |\n"
            "| 5-way 1-shot, untrained | 45.00 ± 0.60 % | 100 |",
            "**Data.** made up. Licence: none.",
            "**Training.** 111,936 parameters, 20 outer steps in 42 s on a processor (cpu), best validation "
            "at step 2; commit 0123456789.",
            "**Limits.** It answers any number of classes from 2. Each query is answered by itself. Measured "
            "on classes of the same data set that training did not see; other kinds of data were not tried. "
            "One training, one seed: the interval is over test episodes only. The data are synthetic: the "
            "numbers say nothing about a published benchmark.",
            f"**Use.** {cards.usage('glyphs-5w1s', 'images')}",
            "**Lineage.** Result `fedcba9876543210`: `metashot trace`, `audit` and `reproduce` take it from "
            "here.",
        ]
    )


def test_a_model_card_states_what_else_limits_the_numbers(document: Document) -> None:
    git = replace(document.training.git, commit="", dirty=True)
    other = replace(
        document,
        metrics=replace(document.metrics, transductive=True),
        training=replace(document.training, git=git),
        origin=replace(document.origin, synthetic=False, classes="shared", citation="Nobody 2020."),
    )
    card = cards.model_card(other)
    assert "**matching: 91.00 ± 0.40 %** on glyphs (known classes), 5-way 1-shot" in card
    assert "Licence: none. Nobody 2020.\n" in card
    assert "at step 2; no commit, tree changed.\n" in card
    assert (
        "**Limits.** It answers any number of classes from 2. Transductive: an answer depends on the other "
        "queries of its task. Measured on new samples of the classes that it was trained on: how it does on "
        "other classes was not tried. One training, one seed: the interval is over test episodes only.\n"
    ) in card


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_use_is_that_of_the_kind(kind: str) -> None:
    said, use = cards.usage("birds-5w1s", kind), KINDS[kind].USE
    assert 'load_model("models:/birds-5w1s@champion")  # or birds-5w1s/VERSION\n' in said
    assert f'\n# {use.column}: {use.holds}\ntask = pandas.DataFrame({{"{use.column}": [' in said
    assert said.endswith(f"\n```\n\n{use.prepared}")


def test_a_cross_test_states_both_data_sets(document: Document) -> None:
    facts = vars(document.origin) | {"files": None}
    del facts["files"]
    one, other = DataFacts(**facts), DataFacts(**facts | {"synthetic": False, "classes": "shared"})
    digits = "0123456789abcdef0123456789abcdef"
    cross = CrossDocument(
        format=1,
        name="glyphs-20w1s",
        method="maml",
        other="flowers",
        model="fedcba9876543210" * 4,
        result="5" * 64,
        tested=CrossMetrics(
            accuracy=0.6543,
            ci95=0.0101,
            episodes=1000,
            n_way=20,
            k_shot=1,
            trained_on=metrics.TrainedOn(dataset="glyphs", data="1" * 32, model="2" * 32),
            tested_on=metrics.TestedOn(dataset="flowers", data=digits, episodes=digits[::-1]),
        ),
        origin={"glyphs": one, "flowers": other},
        stages={},
    )
    assert cards.cross_labels(cross) == {
        "method": "maml",
        "setting": "20w1s",
        "accuracy": "65.43 ± 1.01 %",
        "data": "flowers 01234567",
    }
    assert cards.cross_card(cross) == (
        "**maml: 65.43 ± 1.01 %** on flowers (known classes), 20-way 1-shot, 1,000 episodes, trained on "
        "glyphs (synthetic data), and on nothing of the other.\n\n**Lineage.** Result `fedcba9876543210`, "
        "data `01234567`, episodes `fedcba98`: all stages of both are in lineage.json."
    )


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    comparison = comparisons.made((), ())
    cards.write_report(comparison, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"flowers-5w1s.json", "flowers-5w1s.png"}
    assert (tmp_path / "flowers-5w1s.json").read_text() == comparison.json
    assert (tmp_path / "flowers-5w1s.png").read_bytes().startswith(b"\x89PNG")
