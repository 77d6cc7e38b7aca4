"""Adoption and rollback on results that never ran, with DVC standing by: what they write, do and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic

from metashot import files
from metashot.errors import MetashotError
from metashot.lineage import lockfile
from metashot.lineage.lockfile import Lock
from metashot.results import champions, gate
from metashot.results.gate import Ban

GROUP = "glyphs-5w1s"
WHERE = "glyphs", "5w1s"


class Dvc:
    """Does what adoption and rollback need DVC for, and keeps what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.status = root, [], 0

    def output(self, root: Path, *arguments: str) -> str:
        self.asked.append((root, *arguments))
        if arguments[0] == "checkout":
            raise MetashotError("nothing to mend")
        (root / f"{arguments[1]}.dvc").write_text(
            f"outs:\n- md5: {files.md5(root / arguments[1])}\n  path: {Path(arguments[1]).name}\n"
        )
        return ""

    def run(self, root: Path, *arguments: str) -> int:
        self.asked.append((root, *arguments))
        if not self.status:
            synthetic.judge(root)
        return self.status


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = synthetic.make(tmp_path / "repository")
    (made / "champions").mkdir()
    (made / "champions/adopted.json").write_text("{}")
    return made


@pytest.fixture
def dvc(root: Path, monkeypatch: pytest.MonkeyPatch) -> Dvc:
    dvc = Dvc(root)
    monkeypatch.setattr(champions.dvc, "output", dvc.output)
    monkeypatch.setattr(champions.dvc, "run", dvc.run)
    monkeypatch.setattr(champions.git, "user", lambda root: "somebody")
    monkeypatch.setattr(gate, "tested", lambda *what: np.tile([0.94, 0.95], 500))
    return dvc


def test_the_champion_is_kept_as_it_is_behind_the_earlier_ones(root: Path, dvc: Dvc) -> None:
    cells = [Lock(root).cell(*WHERE, "prototypical")]
    assert champions.adopt(root, *WHERE).name == "prototypical"
    assert dvc.asked == [(root, "add", f"champions/{GROUP}")]
    synthetic.judge(root)
    assert champions.adopt(root, *WHERE) is None  # it is the incumbent already
    assert dvc.asked[1:] == [(root, "checkout", "--force", f"champions/{GROUP}.dvc")]

    synthetic.retrain(root, "prototypical", 0.97)
    cells.append(Lock(root).cell(*WHERE, "prototypical"))
    assert champions.adopt(root, *WHERE).accuracy == 0.97
    folder = root / f"champions/{GROUP}"
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    for cell, (kept, found) in zip(cells, lockfile.adopted(root, *WHERE), strict=True):
        assert (found.result, found.weights) == (cell.result, cell.weights)
        stages = [entry.stage for entry in kept.entries.values()]
        assert stages == [entry.stage for entry in Lock(root).ancestry(cell.train, cell.evaluate)]
        for entry in (found.train, found.evaluate):
            for out in entry.outs:
                assert files.md5(kept.root / out["path"]) == out["md5"]
    for text in ((folder / name / "dvc.lock").read_text() for name in "12"):
        assert "schema: '2.0'" in text
    assert json.loads((root / "champions/adopted.json").read_text()) == {GROUP: [["prototypical", "conv4"]]}


def test_nothing_is_adopted_where_nothing_is_champion(tmp_path: Path, dvc: Dvc) -> None:
    root = synthetic.make(tmp_path / "poor", {"matching": 0.2})
    assert champions.adopt(root, *WHERE) is None
    assert dvc.asked == []
    with pytest.raises(MetashotError, match=f"^{GROUP} has no champion that could be rolled back$"):
        champions.rollback(root, *WHERE, "it is poor")


def test_a_rollback_bars_the_champion_and_says_who_is_next(root: Path, dvc: Dvc) -> None:
    cell = Lock(root).cell(*WHERE, "prototypical")
    for reason in ("", " \n"):
        with pytest.raises(MetashotError, match=r"^a rollback needs a reason: it is all that later readers"):
            champions.rollback(root, *WHERE, reason)
    after = champions.rollback(root, *WHERE, " it confuses two letters\n")
    assert after.champion.name == "matching"
    assert after.decision.reasons[0].endswith(": it confuses two letters")
    assert dvc.asked == [(root, "repro", "--single-item", f"gate@{GROUP}", f"register@{GROUP}")]
    text = (root / f"champions/{GROUP}.json").read_text()
    [entry] = json.loads(text)
    assert text == json.dumps([entry], indent=2) + "\n"
    time = entry.pop("time")
    assert len(time) == len("2026-11-23T12:00:00+00:00")
    assert time.endswith("+00:00")
    assert entry == {
        "method": "prototypical",
        "model": cell.weights,
        "result": cell.result,
        "reason": "it confuses two letters",
        "by": "somebody",
    }
    champions.rollback(root, *WHERE, "this one too")
    with pytest.raises(MetashotError) as caught:
        champions.rollback(root, *WHERE, "and this")
    assert str(caught.value).startswith(f"transfer stays champion of {GROUP}, for nothing else may be: proto")
    assert str(caught.value).endswith("; there is no champion")
    assert [ban.method for ban in gate.read_bans(root, GROUP)] == ["prototypical", "matching"]


def test_a_rollback_that_was_killed_is_taken_up_again(root: Path, dvc: Dvc) -> None:
    dvc.status = 1
    with pytest.raises(MetashotError) as caught:
        champions.rollback(root, *WHERE, "it confuses two letters")
    assert str(caught.value) == (
        f"see above; barred in champions/{GROUP}.json, `dvc repro gate@{GROUP} register@{GROUP}` does the "
        "rest"
    )
    before = (root / f"champions/{GROUP}.json").read_bytes()
    dvc.status = 0
    assert champions.rollback(root, *WHERE, "another reason").champion.name == "matching"
    assert (root / f"champions/{GROUP}.json").read_bytes() == before
    assert [type(ban) for ban in gate.read_bans(root, GROUP)] == [Ban]
