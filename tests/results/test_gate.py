"""The gate's rule against brute force and its every branch; who the incumbent is; bans."""

import json
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import synthetic
import torch

from metashot import files
from metashot.config.params import Gate
from metashot.data import Form, Key, store
from metashot.data.kinds import images
from metashot.errors import MetashotError
from metashot.learning.models import methods
from metashot.learning.models.backbones.conv4 import Conv4Params
from metashot.learning.models.episodes import load_manifest, sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.models.methods.prototypical import Params, Prototypical
from metashot.learning.statistics import Difference, paired
from metashot.lineage import lockfile
from metashot.lineage.lockfile import Lock
from metashot.results import compare, gate
from metashot.results.decision import decision_path
from metashot.results.gate import Ban, Candidate

RULE = Gate(min_accuracy=0.0, allowed_regression=0.0)
EPISODES = 400


def candidate(method: str, mean: float, spread: float = 0.05, seed: int = 0) -> Candidate:
    """A model with exactly this mean and, over the episodes, standard deviation."""
    noise = np.random.default_rng(seed).normal(size=EPISODES)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    return Candidate(method, f"{method}.dir", mean + spread * noise)


def ban(model: Candidate, reason: str = "it was trained on test images") -> Ban:
    return Ban(model.method, model.model, "r" * 64, reason, "2026-11-23T12:00:00+00:00", "somebody")


def decide(present, incumbent=None, bans=(), rule=RULE, **more):
    return gate.decide(present, incumbent, bans, rule, manifest="m", chance=0.2, **more)


def test_the_interval_of_the_difference_is_that_of_a_paired_test():
    old, new = candidate("maml", 0.80, 0.10, seed=1), candidate("reptile", 0.81, 0.11, seed=2)
    shared = np.random.default_rng(3).normal(0, 0.2, EPISODES)  # episodes are hard or easy for both
    old, new = (replace(model, accuracies=model.accuracies + shared) for model in (old, new))
    found = decide([new], old).difference
    each = new.accuracies - old.accuracies
    truth = scipy.stats.ttest_rel(new.accuracies, old.accuracies).confidence_interval(0.95)
    assert found.mean == pytest.approx(each.mean())
    # Student's quantile is 1.966 for 399 degrees of freedom where ours is 1.96
    assert [found.low, found.high] == pytest.approx([truth.low, truth.high], abs=0.004 * each.std())
    drawn = np.random.default_rng(4).choice(each, (20_000, EPISODES)).mean(axis=1)
    assert [found.low, found.high] == pytest.approx(
        list(np.quantile(drawn, [0.025, 0.975])), abs=0.01 * each.std()
    )
    apart = np.sqrt(new.standing.ci95**2 + old.standing.ci95**2)
    assert found.high - found.mean < 0.7 * apart  # pairing is worth it


def test_without_an_incumbent_the_most_accurate_model_is_promoted():
    decision = decide([candidate("maml", 0.8), candidate("siamese", 0.9)])
    assert (decision.champion, decision.promoted) == (decision.challenger, True)
    assert (decision.champion.method, decision.incumbent, decision.difference) == ("siamese", None, None)
    assert decision.judged == {"maml": "maml.dir", "siamese": "siamese.dir"}
    assert decision.reasons == [
        "the challenger, siamese, has 90.00 ± 0.49 %: its 95 % interval lies above chance (20.0%)",
        "siamese, the challenger, becomes champion",
    ]


@pytest.mark.parametrize(
    ("lead", "allowed", "promoted"),
    [
        (0.0050, 0.0, True),  # the half width of the interval is 0.0049
        (0.0048, 0.0, False),
        (-0.0051, 0.0, False),
        (-0.0050, 0.01, True),  # no worse than 0.0099 below, with 95 % confidence
        (-0.0052, 0.01, False),
        (0.0, 0.0049, False),
        (0.0, 0.0050, True),
    ],
)
def test_a_challenger_replaces_the_incumbent_if_its_lead_is_sure(lead, allowed, promoted):
    old = candidate("maml", 0.8, 0.0)
    new = candidate("reptile", 0.8 + lead, 0.05)  # so the difference has a spread of 0.05
    half = 1.96 * 0.05 / np.sqrt(EPISODES)
    decision = decide([new], old, rule=Gate(min_accuracy=0.0, allowed_regression=allowed))
    assert (lead - half > -allowed) == promoted
    assert (decision.promoted, decision.champion.method) == (promoted, "reptile" if promoted else "maml")
    found = decision.difference
    assert [found.mean, found.low, found.high] == pytest.approx([lead, lead - half, lead + half])
    verb = "lies" if promoted else "does not lie"
    assert f"its lower end {verb} above {0 - 100 * allowed:.2f}" in decision.reasons[-2]


def test_equal_answers_leave_the_incumbent():
    old = candidate("maml", 0.8)
    decision = decide([replace(old, method="reptile", model="other")], old)
    assert (decision.champion.method, decision.promoted) == ("maml", False)
    assert decision.difference == Difference(0.0, 0.0, 0.0, 1.0, 0, EPISODES, 0, None)


def test_an_incumbent_that_is_the_challenger_stays_without_a_comparison():
    models = [candidate("maml", 0.8), candidate("siamese", 0.9)]
    decision = decide(models, models[1])
    assert (decision.champion, decision.promoted, decision.difference) == (decision.incumbent, False, None)
    assert decision.champion.method == "siamese"


def test_a_present_incumbent_is_held_against_a_better_challenger():
    models = [candidate("maml", 0.8), candidate("siamese", 0.9, seed=1)]
    decision = decide(models, models[0])
    assert (decision.champion.method, decision.promoted) == ("siamese", True)
    assert decision.retested == {}  # its answers are among those of the present models


def test_an_incumbent_tested_again_is_held_against_every_present_model():
    models, old = [candidate("maml", 0.8), candidate("siamese", 0.9, seed=1)], candidate("maml", 0.85, seed=2)
    decision = decide(models, replace(old, model="old"), bans=[ban(models[1])])
    assert decision.retested == {model.method: paired(model.accuracies, old.accuracies) for model in models}
    assert decision.difference == decision.retested["maml"]  # siamese is barred


@pytest.mark.parametrize(
    ("challenger", "incumbent", "minimum", "champion"),
    [
        (0.2035, None, 0.0, None),  # ± 0.0049, and chance is 0.2
        (0.2051, None, 0.0, "siamese"),
        (0.89, None, 0.9, None),
        (0.9001, None, 0.9, "siamese"),
        (0.89, 0.91, 0.9, "maml"),
        (0.95, 0.89, 0.9, "siamese"),
        (0.9001, 0.8999, 0.9, "siamese"),  # no sure lead, but over one that may not be champion
        (0.85, 0.84, 0.9, None),
        (0.2, 0.3, 0.0, "maml"),
        (0.1, 0.2, 0.0, None),
    ],
)
def test_a_champion_is_above_chance_and_the_minimum(challenger, incumbent, minimum, champion):
    decision = decide(
        [candidate("siamese", challenger)],
        candidate("maml", incumbent, seed=1) if incumbent else None,
        rule=Gate(min_accuracy=minimum, allowed_regression=0.0),
    )
    assert (decision.champion.method if decision.champion else None) == champion
    assert decision.promoted == (champion == "siamese")
    said = " ".join(decision.reasons)
    assert ("there is no champion" in said) == (champion is None)
    if minimum:
        assert f"its mean is {'' if challenger < minimum else 'not '}below the minimum (90.00%)" in said


def test_a_barred_model_is_no_challenger_and_the_reason_is_told():
    models = [candidate("maml", 0.8), candidate("siamese", 0.9)]
    decision = decide(models, bans=[ban(models[1])])
    assert decision.champion.method == decision.challenger.method == "maml"
    assert decision.judged == {"maml": "maml.dir", "siamese": "siamese.dir"}
    assert decision.reasons[0] == (
        "siamese was barred by somebody on 2026-11-23: it was trained on test images"
    )
    nobody = decide(models, bans=[ban(model) for model in models])
    assert (nobody.challenger, nobody.champion, nobody.promoted) == (None, None, False)
    old = candidate("reptile", 0.7)
    assert decide(models, old, bans=[ban(model) for model in models]).champion == old.standing


def test_the_decision_is_the_same_bytes_and_is_read_back(tmp_path):
    root = synthetic.make(tmp_path)
    path = root / decision_path("glyphs-5w1s")
    before = path.read_bytes()
    synthetic.judge(root)
    assert path.read_bytes() == before
    said = json.loads(before)
    assert (said["champion"]["method"], said["promoted"]) == ("prototypical", True)
    comparison = compare.compare(Lock(root), "glyphs", "5w1s", list(synthetic.ACCURACY))
    assert comparison.decision.json.encode() == before
    accuracies = {row.method: row.accuracy for row in comparison.rows}
    assert said["champion"]["accuracy"] == pytest.approx(accuracies["prototypical"], abs=1e-6)


def test_bans_that_cannot_be_read_name_their_file(tmp_path):
    root = synthetic.make(tmp_path)
    (root / "champions").mkdir()
    (root / "champions/glyphs-5w1s.json").write_text('[{"method": "maml"}]')
    with pytest.raises(MetashotError, match=r"champions/glyphs-5w1s.json: not a list of barred models"):
        synthetic.judge(root)


def test_adopted_champions_that_are_not_there_are_not_passed_over(tmp_path):
    root = synthetic.make(tmp_path)
    (root / "champions").mkdir()
    (root / "champions/glyphs-5w1s.dvc").write_text("outs:\n- md5: 0123.dir\n  path: glyphs-5w1s\n")
    for _ in range(2):
        with pytest.raises(MetashotError, match=r"run `dvc pull champions/glyphs-5w1s.dvc`"):
            synthetic.judge(root)
        (root / "champions/glyphs-5w1s").mkdir(exist_ok=True)
    assert lockfile.adopted(root, "omniglot", "5w1s") == []


@pytest.mark.parametrize("barred", ["".join(c) for n in range(4) for c in combinations("abc", n)])
def test_the_incumbent_is_the_last_adopted_champion_that_is_not_barred(barred: str) -> None:
    adopted = [(None, SimpleNamespace(weights=weights)) for weights in "abc"]
    bans = [Ban("maml", weights, "r" * 64, "", "", "") for weights in barred]
    kept, later = gate.unbarred(adopted, bans)
    free = [weights for weights in "abc" if weights not in barred]
    assert (kept and kept[1].weights) == (free[-1] if free else None)
    assert later == [weights for weights in "cba" if not free or weights > free[-1]]


def test_limits_count_as_their_documentation_says() -> None:
    """A mean at the minimum is enough; an interval that ends at chance is not."""
    quarter = Candidate("maml", "m", np.full(EPISODES, 0.25))
    for minimum, chance, champion in ((0.25, 0.2, True), (0.25, 0.25, False), (0.26, 0.2, False)):
        rule = Gate(min_accuracy=minimum, allowed_regression=0.0)
        decision = gate.decide([quarter], None, [], rule, manifest="m", chance=chance)
        assert (decision.champion is not None) == champion
    wide = Candidate("maml", "m", np.tile([0.0, 0.5], EPISODES // 2))  # 0.25 ± 0.0245
    assert gate.decide([wide], None, [], RULE, manifest="m", chance=0.23).champion is None
    assert gate.decide([wide], None, [], RULE, manifest="m", chance=0.22).champion


def test_of_equal_challengers_the_first_name_counts() -> None:
    models = [candidate(name, 0.8) for name in ("siamese", "maml", "transfer")]
    assert decide(models).challenger.method == "maml"
    assert decide(models[::-1]).challenger.method == "maml"


def test_the_lead_is_told_in_points() -> None:
    old = Candidate("maml", "old", np.full(EPISODES, 0.5))
    new = Candidate("reptile", "new", np.tile([0.5, 0.625], EPISODES // 2))
    rule = Gate(min_accuracy=0.25, allowed_regression=0.01)
    # 1.96 standard errors are 1.96 * 0.0625 / sqrt(399) = 0.0061
    assert decide([new], old, rule=rule, remarks=["a remark"]).reasons == [
        "a remark",
        "the challenger, reptile, has 56.25 ± 0.61 %: its 95 % interval lies above chance (20.0%) and its "
        "mean is not below the minimum (25.00%)",
        "the incumbent, maml, has 50.00 ± 0.00 %: its 95 % interval lies above chance (20.0%) and its mean "
        "is not below the minimum (25.00%)",
        "the challenger leads the incumbent by +6.25 percentage points, 95 % interval +5.64 to +6.86: its "
        "lower end lies above -1.00",
        "reptile, the challenger, becomes champion",
    ]
    assert decide([replace(old, model="new")], replace(new, model="old")).reasons[-2:] == [
        "the challenger leads the incumbent by -6.25 percentage points, 95 % interval -6.86 to -5.64: its "
        "lower end does not lie above 0.00",
        "reptile, the incumbent, stays champion",
    ]


def test_the_first_mistake_in_a_list_of_bans_is_named() -> None:
    with pytest.raises(MetashotError) as caught:
        gate.parse_bans(b'[{"method": 1, "model": "m"}]', "a file")
    assert str(caught.value) == (
        "a file: not a list of barred models (Input should be a valid string): restore it with git"
    )
    bans = [ban(candidate("maml", 0.8))]
    text = json.dumps([vars(entry) for entry in bans])
    assert gate.parse_bans(text.encode(), "a file") == bans


def adopt(root, **accuracy: float):
    """Adopt a model; returns its cell."""
    kept = synthetic.make(root / "champions/glyphs-5w1s/1", accuracy)
    (root / "champions/glyphs-5w1s.dvc").write_text(
        f"outs:\n- md5: {files.md5(root / 'champions/glyphs-5w1s')}\n  path: glyphs-5w1s\n"
    )
    return Lock(kept).cell("glyphs", "5w1s", *accuracy)


def test_the_incumbent_is_tested_again_on_the_present_episodes(tmp_path, monkeypatch) -> None:
    root = synthetic.make(tmp_path, {"matching": 0.91})
    cell, asked = adopt(root, maml=0.80), []
    again = np.tile([0.9, 1.0], 500)
    monkeypatch.setattr(gate, "tested", lambda *what: asked.append(what) or again)
    bans = [ban(candidate("siamese", 0.8))]  # of a model that nobody proposes
    decision = gate.judge(root, "glyphs", "5w1s", ["matching"], RULE, bans, 3)
    assert asked == [
        (
            root / f"champions/glyphs-5w1s/1/{cell.model}",
            root / "data/processed/glyphs.parquet",
            root / "data/episodes/glyphs-5w1s/test.parquet",
            3,
        )
    ]
    assert decision.incumbent == Candidate("maml", cell.weights, again).standing == decision.champion
    present = compare.accuracies(Lock(root), Lock(root).cell("glyphs", "5w1s", "matching"))
    assert decision.retested == {"matching": paired(present, again)}
    assert decision.manifest == files.md5(root / "data/episodes/glyphs-5w1s/test.parquet")
    assert not any("barred" in reason for reason in decision.reasons)

    barred = replace(bans[0], method="maml", model=cell.weights)
    decision = gate.judge(root, "glyphs", "5w1s", ["matching"], RULE, [barred], 3)
    assert (decision.champion.method, decision.incumbent, len(asked)) == ("matching", None, 1)
    assert decision.reasons[0] == barred.sentence

    def fail(*what):
        raise MetashotError("it was trained on sounds")

    monkeypatch.setattr(gate, "tested", fail)
    decision = gate.judge(root, "glyphs", "5w1s", ["matching"], RULE, [], 3)
    assert (decision.champion.method, decision.incumbent, decision.retested) == ("matching", None, {})
    assert decision.reasons[0] == (
        "the incumbent, maml, cannot be tested on these episodes: it was trained on sounds"
    )
    with (root / "data/episodes/glyphs-5w1s/test.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(MetashotError) as caught:
        gate.judge(root, "glyphs", "5w1s", ["matching"], RULE, [], 3)
    assert str(caught.value) == (
        "the methods were not tested on the present data/episodes/glyphs-5w1s/test.parquet: "
        "run `dvc repro gate@glyphs-5w1s`"
    )


def test_an_incumbent_of_the_present_training_is_not_tested_again(tmp_path, monkeypatch) -> None:
    root = synthetic.make(tmp_path, {"matching": 0.91, "transfer": 0.78})
    adopt(root, matching=0.91)
    monkeypatch.setattr(gate, "tested", None)
    decision = gate.judge(root, "glyphs", "5w1s", ["matching", "transfer"], RULE, [], 3)
    assert decision.incumbent == decision.challenger == decision.champion
    assert (decision.champion.method, decision.promoted) == ("matching", False)


def test_a_saved_model_is_tested_in_each_episode(tmp_path) -> None:
    """As one that answers a single episode at a time."""

    def write(form: Form) -> None:
        random = np.random.default_rng(0)
        with store.writing(tmp_path / "data", form, rotations=False, about={"synthetic": True}) as writer:
            keys = [Key("test", "all", f"class{c}", str(n)) for c in range(5) for n in range(6)]
            pixels = random.integers(0, 256, (30, *form.shape), dtype=np.uint8)
            writer.write(keys, pixels, [random.bytes(16) for _ in keys])
        test = store.load(tmp_path / "data", "test")
        sample(test, n_way=4, k_shot=1, n_query=3, episodes=20, seed=0).save(tmp_path / "episodes")

    write(images.form(16, 1))
    torch.manual_seed(0)
    network = Conv4Params(name="conv4", width=4, downsample="pool")
    params = Params(lr=1e-3, meta_batch=1, train_way=5, temperature=1.0)
    model = Prototypical(params, Problem(images.form(16, 1), network)).eval()
    (tmp_path / "model").mkdir()
    methods.save(model, tmp_path / "model")
    found = gate.tested(tmp_path / "model", tmp_path / "data", tmp_path / "episodes", torch.get_num_threads())
    test = store.load(tmp_path / "data", "test")
    manifest, right = load_manifest(tmp_path / "episodes", test), []
    with torch.no_grad():
        for row in range(20):
            e = manifest.gather(test.tensor(), slice(row, row + 1))
            said = model.predict(e.support, e.support_labels, e.query, 4).argmax(-1)
            right.append(int((said == e.query_labels).sum()) / 12)
    assert found.tolist() == pytest.approx(right)
    assert len(set(right)) > 3
    write(images.form(20, 1))
    with pytest.raises(MetashotError, match=r"^it was trained on .*16.*, not on .*20"):
        gate.tested(tmp_path / "model", tmp_path / "data", tmp_path / "episodes", torch.get_num_threads())
