"""The gate: which model may be champion.

The *incumbent* is the champion that was adopted last. The *challenger* is the most accurate present model.
Both are measured on the same test episodes. A model that somebody barred is neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError

from metashot.config import params
from metashot.data import Form, store
from metashot.errors import MetashotError
from metashot.files import md5
from metashot.formatting import accuracy
from metashot.learning.models.episodes import load_manifest
from metashot.learning.statistics import mean_and_interval, paired
from metashot.lineage import lockfile
from metashot.lineage.lockfile import CHAMPIONS, Cell, Lock
from metashot.results import compare
from metashot.results.decision import Decision, Standing

if TYPE_CHECKING:  # torch, slow to import, is needed only where an incumbent is tested again
    import torch

    from metashot.learning.models.methods.base import Method


UNTESTED = "cannot be tested on these episodes"


@dataclass(frozen=True)
class Ban:
    """A model that must not be champion: by whose decision, since when (UTC) and why."""

    method: str
    model: str
    result: str
    reason: str
    time: str
    by: str

    @property
    def sentence(self) -> str:
        """How a decision states it."""
        return f"{self.method} was barred by {self.by} on {self.time[:10]}: {self.reason}"


@dataclass(frozen=True)
class Candidate:
    """A model and its accuracy in each test episode ``[E]``, as fractions."""

    method: str
    model: str
    accuracies: np.ndarray

    @property
    def standing(self) -> Standing:
        """The candidate with its mean and interval."""
        return Standing(self.method, self.model, *mean_and_interval(self.accuracies))


def judge(
    root: Path,
    dataset: str,
    setting: str,
    names: Sequence[str],
    rule: params.Gate,
    bans: Sequence[Ban],
    threads: int,
) -> Decision:
    """Decide between the current models and the incumbent, which is tested again on the current episodes.

    Args:
        root: The repository.
        dataset: The data set.
        setting: The setting.
        names: The methods that compete, as far as they were evaluated.
        rule: The thresholds.
        bans: The models that are barred.
        threads: To test the incumbent with.

    Raises:
        MetashotError: Files are missing or not those that dvc.lock names.
    """
    lock = Lock(root)
    evaluated = compare.results(lock, dataset, setting, names)
    present = [Candidate(cell.method, cell.weights, compare.accuracies(lock, cell)) for cell, _ in evaluated]
    incumbent: Candidate | None = None
    remarks: list[str] = []
    kept, passed_over = latest(root, dataset, setting, bans)
    metrics = evaluated[0][1]
    if kept:
        model = kept[1].weights
        incumbent = next((candidate for candidate in present if candidate.model == model), None)
        if incumbent is None:
            if md5(root / _manifest(dataset, setting)) != metrics.manifest:
                raise MetashotError(
                    f"the methods were not tested on the present {_manifest(dataset, setting)}: "
                    f"run `dvc repro gate@{dataset}-{setting}`"
                )
            incumbent, remarks = _retest(root, dataset, setting, *kept, threads)
    candidates = {*passed_over, *(candidate.model for candidate in present)}
    return decide(
        present,
        incumbent,
        [ban for ban in bans if ban.model in candidates],
        rule,
        manifest=metrics.manifest,
        chance=metrics.chance,
        remarks=remarks,
    )


def decide(
    present: Sequence[Candidate],
    incumbent: Candidate | None,
    bans: Sequence[Ban],
    rule: params.Gate,
    *,
    manifest: str,
    chance: float,
    remarks: Sequence[str] = (),
) -> Decision:
    """Apply the rule.

    A champion's 95 % interval lies above chance, and its mean is not below ``min_accuracy``. The challenger
    takes the place of an incumbent that is so only if the lower end of the 95 % interval of the paired
    difference lies above ``-allowed_regression``.

    Args:
        present: The models of the present training, each on the same episodes.
        incumbent: On these episodes too; maybe one of ``present``.
        bans: The models that are barred, the incumbent not among them.
        rule: The thresholds.
        manifest: md5 of the episodes.
        chance: Accuracy of guessing.
        remarks: What is known beforehand, for the reasons.
    """
    barred = {ban.model for ban in bans}
    reasons = [ban.sentence for ban in bans]
    reasons += remarks
    admitted = [candidate for candidate in present if candidate.model not in barred]
    challenger = min(admitted, key=lambda c: (-c.accuracies.mean(), c.method), default=None)
    first = challenger.standing if challenger else None
    holder = incumbent.standing if incumbent else None
    same = bool(first and holder and first.model == holder.model)
    difference, retested = None, {}
    if challenger and incumbent and not same:
        difference = paired(challenger.accuracies, incumbent.accuracies)
    if incumbent and incumbent.model not in {candidate.model for candidate in present}:
        retested = {model.method: paired(model.accuracies, incumbent.accuracies) for model in present}

    rises = first is not None and not same and _fit("challenger", first, rule, chance, reasons)
    stays = holder is not None and _fit("incumbent", holder, rule, chance, reasons)
    if rises and stays and difference:
        rises = difference.low > -rule.allowed_regression
        reasons.append(
            f"the challenger leads the incumbent by {100 * difference.mean:+.2f} percentage points, 95 % "
            f"interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f}: its lower end "
            f"{'lies' if rises else 'does not lie'} above {0 - 100 * rule.allowed_regression:.2f}"
        )
    champion = first if rises else holder if stays else None
    if champion is None:
        reasons.append("there is no champion")
    elif rises:
        reasons.append(f"{champion.method}, the challenger, becomes champion")
    else:
        reasons.append(f"{champion.method}, the incumbent, stays champion")
    return Decision(
        manifest=manifest,
        judged={candidate.method: candidate.model for candidate in present},
        min_accuracy=rule.min_accuracy,
        allowed_regression=rule.allowed_regression,
        incumbent=holder,
        challenger=first,
        difference=difference,
        retested=retested,
        champion=champion,
        promoted=rises,
        reasons=reasons,
    )


def latest(
    root: Path, dataset: str, setting: str, bans: Sequence[Ban]
) -> tuple[tuple[Lock, Cell] | None, list[str]]:
    """Return the incumbent, the last adopted champion that is not barred, and the later, barred ones."""
    return unbarred(lockfile.adopted(root, dataset, setting), bans)


def unbarred(
    adopted: Sequence[tuple[Lock, Cell]], bans: Sequence[Ban]
) -> tuple[tuple[Lock, Cell] | None, list[str]]:
    """Return the last adopted champion that is not barred, and the later, barred ones."""
    kept: list[tuple[Lock, Cell]] = list(adopted)
    passed_over: list[str] = []
    barred = {ban.model for ban in bans}
    while kept and kept[-1][1].weights in barred:
        passed_over.append(kept.pop()[1].weights)
    return kept[-1] if kept else None, passed_over


def read_bans(root: Path, group: str) -> list[Ban]:
    """Return the models of a data set and setting that were barred.

    Raises:
        MetashotError: The file that lists them is damaged.
    """
    path = bans_path(root, group)
    return parse_bans(path.read_bytes(), str(path)) if path.exists() else []


def parse_bans(content: bytes, where: str) -> list[Ban]:
    """Return the barred models that a file lists. Raises MetashotError where it is damaged."""
    try:
        bans: list[Ban] = TypeAdapter(list[Ban]).validate_json(content)
    except ValidationError as error:
        reason = " ".join(str(error.errors()[0]["msg"]).split())
        raise MetashotError(f"{where}: not a list of barred models ({reason}): restore it with git") from None
    return bans


def bans_path(root: Path, group: str) -> Path:
    """Return where the barred models of a data set and setting are listed."""
    return root / CHAMPIONS / f"{group}.json"


def _fit(role: str, model: Standing, rule: params.Gate, chance: float, reasons: list[str]) -> bool:
    """Whether a model qualifies as champion; appends the reason."""
    above, enough = model.accuracy - model.ci95 > chance, model.accuracy >= rule.min_accuracy
    limits = [f"its 95 % interval {'lies' if above else 'does not lie'} above chance ({chance:.1%})"]
    if rule.min_accuracy:
        limits.append(f"its mean is {'not ' if enough else ''}below the minimum ({rule.min_accuracy:.2%})")
    shown = accuracy(model.accuracy, model.ci95)
    reasons.append(f"the {role}, {model.method}, has {shown}: {' and '.join(limits)}")
    return above and enough


def _manifest(dataset: str, setting: str) -> str:
    return f"data/episodes/{dataset}-{setting}/test.parquet"


def _retest(
    root: Path, dataset: str, setting: str, lock: Lock, cell: Cell, threads: int
) -> tuple[Candidate | None, list[str]]:
    """The incumbent tested on the current episodes, or None and the reason."""
    data = root / f"data/processed/{dataset}.parquet"
    try:
        model = lock.file(cell.train, cell.model)
        accuracies = tested(model, data, root / _manifest(dataset, setting), threads)
    except MetashotError as error:
        return None, [untested(cell.method, error)]
    return Candidate(cell.method, cell.weights, accuracies), []


def untested(method: str, reason: MetashotError) -> str:
    """Return the gate's remark on an incumbent that cannot be tested again."""
    return f"the incumbent, {method}, {UNTESTED}: {reason}"


def tested(folder: Path, data: Path, episodes: Path, threads: int) -> np.ndarray:
    """Return the accuracy ``[E]`` of a saved model in each test episode, as fractions.

    Args:
        folder: Of the model.
        data: The Parquet file.
        episodes: The test manifest.
        threads: To test with.

    Raises:
        MetashotError: It cannot be loaded, or was made for samples of another form.
    """
    from metashot.learning.evaluation import correct_queries
    from metashot.learning.models import runtime

    runtime.keep_freed_memory()
    runtime.use_threads(threads)
    device = runtime.best_device()
    test = store.load(data, "test")
    manifest = load_manifest(episodes, test)
    model = _load(folder, device, test.form)
    return np.asarray(correct_queries(model, test.tensor(device), manifest) / manifest.queries)


def _load(folder: Path, device: "torch.device", form: Form) -> "Method":
    """A saved model that is to answer episodes of such samples."""
    from metashot.learning.models import methods

    model = methods.load(folder, device)
    if model.problem.form != form:
        raise MetashotError(f"it was trained on {model.problem.form}, not on {form}")
    return model
