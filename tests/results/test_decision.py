"""The decision's file: its text, who may change it, and what is said where it cannot be read."""

from dataclasses import FrozenInstanceError, replace

import comparisons
import numpy as np
import pytest
import synthetic

from metashot.errors import MetashotError
from metashot.lineage.lockfile import Lock
from metashot.results import decision
from metashot.results.decision import Decision, Standing
from metashot.results.gate import Ban, Candidate
from metashot.results.papers import Reported

COMPARISON = comparisons.made()


@pytest.mark.parametrize(
    ("result", "field"),
    [
        (COMPARISON, "rows"),
        (COMPARISON.rows[0], "accuracy"),
        (COMPARISON.pairs[0], "p_corrected"),
        (COMPARISON.decision, "champion"),
        (Standing("maml", "m.dir", 0.9, 0.1), "accuracy"),
        (Ban("maml", "m.dir", "r", "it leaks", "2026-11-23", "somebody"), "reason"),
        (Candidate("maml", "m.dir", np.zeros(2)), "accuracies"),
        (Reported("a paper", {}), "accuracies"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_results_do_not_change(result: object, field: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(result, field, None)


def test_a_decision_is_written_for_people_and_read_back() -> None:
    standing = Standing("maml", "m.dir", 0.9, 0.0125)
    made = replace(
        COMPARISON.decision,
        judged={"maml": "m.dir"},
        incumbent=None,
        challenger=standing,
        champion=None,
        reasons=["maml has 90.00 ± 1.25 %"],
    )
    assert (
        made.json
        == """{
  "manifest": "mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm",
  "judged": {
    "maml": "m.dir"
  },
  "min_accuracy": 0.0,
  "allowed_regression": 0.0,
  "incumbent": null,
  "challenger": {
    "method": "maml",
    "model": "m.dir",
    "accuracy": 0.9,
    "ci95": 0.0125
  },
  "difference": null,
  "retested": {},
  "champion": null,
  "promoted": false,
  "reasons": [
    "maml has 90.00 ± 1.25 %"
  ]
}
"""
    )
    assert Decision.parse(made.json, "a file") == made
    with pytest.raises(MetashotError, match=r"^a file is not a decision of this metashot's gate$"):
        Decision.parse(made.json.replace('"promoted": false', '"promoted": "perhaps"'), "a file")


def test_a_decision_that_is_not_there_or_not_one_names_the_stage_that_makes_it(tmp_path) -> None:
    root = synthetic.make(tmp_path, {"maml": 0.9})
    assert decision.decision_of(Lock(root), "glyphs-5w1s").judged.keys() == {"maml"}
    with pytest.raises(MetashotError) as caught:
        decision.decision_of(Lock(root), "glyphs-20w1s")
    assert str(caught.value) == "dvc.lock has no gate@glyphs-20w1s: run `dvc repro register@glyphs-20w1s`"
    (root / "reports/glyphs-5w1s-gate.json").write_text("{}")
    synthetic.enter(root, "gate@glyphs-5w1s")
    with pytest.raises(MetashotError) as caught:
        decision.decision_of(Lock(root), "glyphs-5w1s")
    assert str(caught.value) == (
        "reports/glyphs-5w1s-gate.json is not a decision of this metashot's gate: "
        "run `dvc repro register@glyphs-5w1s`"
    )
