"""The page of results against what the evaluation measured and the papers report."""

import re
from types import SimpleNamespace

import pytest
import synthetic

from metashot.errors import MetashotError
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.lineage.metrics import Measured
from metashot.results import compare, papers


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


def result(
    method: str, accuracy: float, transductive: bool = False, **extra: float
) -> tuple[SimpleNamespace, SimpleNamespace]:
    """The row and the lineage of a result of 5-way 1-shot, with further shapes by their names."""
    shapes = {"5w5s": {"n_way": 5, "k_shot": 5}, "9w1s": {"n_way": 9, "k_shot": 1}}
    metrics = SimpleNamespace(
        **vars(Measured(accuracy=accuracy, ci95=0.004, episodes=1000)),
        shown=f"{100 * accuracy:.2f} ± 0.40 %",
        n_way=5,
        k_shot=1,
        transductive=transductive,
        extra={name: Measured(accuracy=a, ci95=0.003, episodes=600) for name, a in extra.items()},
    )
    stage = SimpleNamespace(params={"params.yaml": {"setting.5w1s.extra": shapes}})
    row = SimpleNamespace(
        method=method,
        group="training-free" if method == "ridge" else "trained",
        transductive=transductive,
        on_features=f"{method} †" if transductive else method,
    )
    return row, SimpleNamespace(
        method=method,
        setting="5w1s",
        metrics=metrics,
        stages={"the evaluation": stage},
        address=lambda stage: {"evaluate": "the evaluation"}[stage],
    )


def comparison(dataset: str, *groups: str, **gains: str) -> SimpleNamespace:
    """What the page takes from a comparison: its groups, and sentences of gains by their settings."""
    return SimpleNamespace(
        dataset=dataset,
        groups=dict.fromkeys(groups or ("trained",), ()),
        gains=[SimpleNamespace(setting=name, sentence=sentence) for name, sentence in gains.items()],
    )


def test_each_shape_has_a_table_with_the_best_first_and_what_the_paper_of_its_kind_says() -> None:
    found = papers._tables(
        comparison("omniglot_paper"),
        [
            result("maml", 0.9876, True, **{"9w1s": 0.5}),  # published once, whatever its answers depend on
            result("reptile", 0.9541),
            result("reptile", 0.97, True, **{"5w5s": 0.995}),
            result("prototypical", 0.98789),
            result("transfer", 0.9),
        ],
    )
    by = "arXiv:1803.02999"
    assert found == [
        "| 5-way 1-shot | accuracy | episodes | published | difference | by |\n"
        "|:--|--:|--:|--:|--:|:--|\n"
        "| prototypical | 98.79 ± 0.40 % | 1,000 | 98.8 | +0.0 | table 1 of Snell et al. 2017, "
        "arXiv:1703.05175 |\n"
        "| maml † | 98.76 ± 0.40 % | 1,000 | 98.7 | +0.1 | table 1 of Finn et al. 2017, arXiv:1703.03400 |\n"
        f"| reptile † | 97.00 ± 0.40 % | 1,000 | 97.7 | -0.7 | table 2 of Nichol et al. 2018, {by} |\n"
        f"| reptile | 95.41 ± 0.40 % | 1,000 | 95.4 | +0.0 | table 2 of Nichol et al. 2018, {by} |\n"
        "| transfer | 90.00 ± 0.40 % | 1,000 | | | |",
        "| 9-way 1-shot | accuracy | episodes | published | difference | by |\n"
        "|:--|--:|--:|--:|--:|:--|\n"
        "| maml † | 50.00 ± 0.30 % | 600 | | | |",
        "| 5-way 5-shot | accuracy | episodes | published | difference | by |\n"
        "|:--|--:|--:|--:|--:|:--|\n"
        f"| reptile † | 99.50 ± 0.30 % | 600 | 99.5 | +0.0 | table 2 of Nichol et al. 2018, {by} |",
    ]
    assert "published" in papers._tables(comparison("made_up"), [result("maml", 0.9)])[0]
    assert "arXiv" not in papers._tables(comparison("made_up"), [result("maml", 0.9)])[0]


def test_groups_stand_apart_and_each_shape_says_what_training_gained() -> None:
    found = papers._tables(
        comparison("made_up", "trained", "training-free", **{"5w1s": "lost much", "5w5s": "gained more"}),
        [
            result("ridge", 0.95, **{"5w5s": 0.97}),
            result("maml", 0.9, **{"9w1s": 0.5}),
            result("siamese", 0.91),
        ],
    )
    head, rule = "accuracy | episodes | published | difference | by |", "|:--|--:|--:|--:|--:|:--|"
    trained, free = "| *trained* | | | | | |", "| *training-free* | | | | | |"
    assert [part.splitlines() for part in found] == [
        [
            f"| 5-way 1-shot | {head}",
            rule,
            trained,
            "| siamese | 91.00 ± 0.40 % | 1,000 | | | |",
            "| maml | 90.00 ± 0.40 % | 1,000 | | | |",
            free,
            "| ridge | 95.00 ± 0.40 % | 1,000 | | | |",
        ],
        ["Lost much."],
        [f"| 5-way 5-shot | {head}", rule, trained, free, "| ridge | 97.00 ± 0.30 % | 600 | | | |"],
        ["Gained more."],
        [f"| 9-way 1-shot | {head}", rule, trained, "| maml | 50.00 ± 0.30 % | 600 | | | |", free],
    ]


@pytest.mark.parametrize(
    ("commit", "dirty", "shown"),
    [("0123456789abcdef", False, "0123456789"), ("", False, "none"), ("", True, "none (changed)")],
)
def test_every_training_is_told(commit, dirty, shown) -> None:
    def made() -> SimpleNamespace:
        git = SimpleNamespace(commit=commit, dirty=dirty)
        device = SimpleNamespace(name="a processor", threads=2)
        training = SimpleNamespace(
            git=git, device=device, params={"method": {"meta_batch": 32}}, seconds=125.4, steps=60_000
        )
        return SimpleNamespace(method="maml", training=training, result="0123456789abcdef" * 4)

    assert papers._trainings([(SimpleNamespace(), made())]) == (
        "| training | outer steps | episodes a step | took | on | commit | result |\n"
        "|:--|--:|--:|--:|:--|:--|:--|\n"
        f"| maml | 60,000 | 32 | 2 min 05 s | a processor, 2 threads | {shown} | 0123456789ab |"
    )


def test_the_whole_page_is_headed_tables_trainings_and_differences(tmp_path) -> None:
    root = synthetic.make(tmp_path, {"maml": 0.91}, ds="cifar_fs")
    lock = Lock(root)
    compared = compare.compare(lock, "cifar_fs", "5w1s", ["maml"])
    shown = [(compared.rows[0], Document.of_cell(lock, lock.cell("cifar_fs", "5w1s", "maml")))]
    first, second, third = papers.DIFFERENCES["cifar_fs"]
    head, *rest = papers.page(root).split("## cifar_fs, trained for 5w1s\n\n")
    assert head.startswith("# Results\n\nMade by `metashot results` from what dvc.lock names; do not edit.")
    assert rest == [
        "\n\n".join(
            [
                *papers._tables(compared, shown),
                papers._trainings(shown),
                "Where the protocol differs from the papers:",
                f"- {first}\n- {second}\n- {third}\n",
            ]
        )
    ]
