"""Choice of an N-way K-shot setting that fits the data."""

import re
from collections import Counter
from collections.abc import Mapping

from pydantic import TypeAdapter

from metashot.config import params
from metashot.data.files import split_lists

WAY, SHOTS, QUERIES = 5, 5, 15  # proposed if the data have enough classes and samples


def choose(
    file: params.File, name: str, sizes: Mapping[str, Counter[str]], known: bool
) -> tuple[str, params.Setting | None]:
    """The best setting for the splits: an equally good one in params.yaml, or a new one.

    Existing settings are never changed, as other data sets may use them. Known data keep the setting that is
    named after them as long as it tests them equally well.
    """
    best = _best_setting(sizes)
    short = f"{best.n_way}w1s"
    for candidate in dict.fromkeys([*file.settings, *file.setting]):
        setting: params.Setting = TypeAdapter(params.Setting).validate_python(file.setting[candidate])
        own = known and re.fullmatch(rf"{short}_{name}(_[0-9]+)?", candidate)
        if _fits(setting, sizes) and _test_of(setting) == _test_of(best):
            if own and 2 * setting.train_way >= best.train_way:
                return candidate, None
            if (setting.train_way, setting.train_query) == (best.train_way, best.train_query):
                return candidate, None
    names = [short, f"{short}_{name}", *(f"{short}_{name}_{n}" for n in range(2, len(file.setting) + 3))]
    return next(new for new in names if new not in file.setting), best


def _test_of(setting: params.Setting) -> tuple[object, ...]:
    """The part of a setting that defines the test, without the number of episodes."""
    extra = {(extra.n_way, extra.k_shot) for extra in setting.extra.values()}
    return setting.n_way, setting.k_shot, setting.n_query, frozenset(extra)


def _best_setting(sizes: Mapping[str, Counter[str]]) -> params.Setting:
    """The largest setting that the data allow, up to `WAY`, `SHOTS` and `QUERIES`."""
    smallest = smallest_class(sizes)
    n_way = min(WAY, max_way(sizes))
    n_query = min(QUERIES, smallest - SHOTS) if smallest >= 2 * SHOTS else min(QUERIES, smallest - 1)
    extra = {}
    if smallest >= 2 * SHOTS:
        extra[f"{n_way}w{SHOTS}s"] = params.ExtraSetting(n_way, SHOTS, 1000)
    if len(sizes["test"]) >= 20:
        extra["20w1s"] = params.ExtraSetting(20, 1, 1000)
    return params.Setting(
        n_way=n_way,
        k_shot=1,
        n_query=n_query,
        val_episodes=40,
        test_episodes=1000,
        train_way=min(60, len(sizes["train"])),
        train_query=min(5, min(sizes["train"].values()) - 1),
        train_episodes=2000,
        extra=extra,
    )


def _fits(setting: params.Setting, sizes: Mapping[str, Counter[str]]) -> bool:
    """Whether the data have enough classes and samples for every manifest of a setting."""
    needs = [
        ("train", setting.train_way, setting.k_shot + setting.train_query),
        ("val", setting.n_way, setting.k_shot + setting.n_query),
        ("test", setting.n_way, setting.k_shot + setting.n_query),
        *(("test", extra.n_way, extra.k_shot + setting.n_query) for extra in setting.extra.values()),
    ]
    return all(
        len(sizes[split]) >= n_way and min(sizes[split].values()) >= samples
        for split, n_way, samples in needs
    )


def max_way(sizes: Mapping[str, Counter[str]]) -> int:
    """The largest number of classes that episodes of every split can have."""
    return min(len(sizes[split]) for split in split_lists.SPLITS)


def smallest_class(sizes: Mapping[str, Counter[str]]) -> int:
    """Number of samples of the smallest class in validation and test."""
    return min((*sizes["val"].values(), *sizes["test"].values()), default=0)
