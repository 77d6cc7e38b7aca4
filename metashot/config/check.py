"""Check all of params.yaml, sections in use and others."""

import math
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from metashot.config import params
from metashot.data.kinds import KINDS
from metashot.data.sources import SOURCES
from metashot.errors import MetashotError
from metashot.learning import augmentation, choosing
from metashot.learning.features import FEATURES
from metashot.learning.models import backbones, methods

SAMPLE = 10_000_000  # numbers that a sample may have
WEIGHTS = 1_000_000_000  # weights that a backbone may have


def check(path: Path) -> None:
    """Validate every section against its type, in use or not, and resolve every name to its section.

    Raises:
        MetashotError: The first section that is wrong, with the offending key.
    """
    for catalogue in (SOURCES, KINDS, FEATURES, methods.METHODS, backbones.BACKBONES):
        catalogue.check()
    if missing := set(KINDS) - set(FEATURES):
        raise MetashotError(f"metashot/learning/features: nothing for kind {min(missing)}: add a module")
    file: params.File = params.read(path, "", params.File)
    for key in ("datasets", "settings", "methods"):
        names = getattr(file, key)
        if not names or len(set(names)) < len(names):
            raise MetashotError(f"{path}: {key}: needs at least one name, and each only once")
    for section, listed, described in (
        ("data", file.datasets, file.data),
        ("setting", file.settings, file.setting),
        ("method", file.methods, file.method),
    ):
        spellings: dict[str, str] = {}
        for name in described:
            if (other := spellings.setdefault(name.lower(), name)) != name:
                raise MetashotError(
                    f"{path}: {section}.{name}: differs from {other} by case only: rename one"
                )
        for name in listed:
            if section == "method" and name not in methods.METHODS:
                known = ", ".join(sorted(methods.METHODS))
                raise MetashotError(f"{path}: methods: unknown method {name!r}: there are {known}")
            if name not in described:
                raise MetashotError(f"{path}: {section}.{name}: missing")
    for name in {*file.cross.trained_on, *file.cross.tested_on} - {*file.datasets}:
        raise MetashotError(f"{path}: cross: {name} is not in datasets")
    if both := {*file.cross.trained_on} & {*file.cross.tested_on}:
        raise MetashotError(f"{path}: cross: {min(both)} is in trained_on and in tested_on")
    forms = {}
    for name, data in file.data.items():
        try:
            module = SOURCES[data.source]
        except MetashotError as error:
            raise MetashotError(f"{path}: data.{name}.source: {error}") from None
        params.read(path, f"data.{name}.raw", module.Raw)
        prepare = params.read(path, f"data.{name}.prepare", module.Prepare)
        forms[name] = prepare.form
        backbone = params.read(path, f"data.{name}.backbone", backbones.BACKBONES)
        augment = params.read(path, f"data.{name}.augment", augmentation.Augment)
        if (numbers := math.prod(prepare.form.shape)) > SAMPLE:
            raise MetashotError(
                f"{path}: data.{name}.prepare: a sample has {numbers:,} numbers, more than {SAMPLE:,}: "
                "shrink it"
            )
        if backbone.fixed:
            raise MetashotError(
                f"{path}: data.{name}.backbone: {backbone.name} is not trained: name it as features of a "
                "training-free method, such as method.ridge"
            )
        try:
            weights = backbone.count(prepare.form.shape)
        except MetashotError as error:
            raise MetashotError(f"{path}: data.{name}.backbone: {error}") from None
        if weights > WEIGHTS:
            raise MetashotError(
                f"{path}: data.{name}.backbone: has {weights:,} weights, more than {WEIGHTS:,}: shrink it"
            )
        if augment.varies and not KINDS[prepare.form.kind].USE.varied:
            raise MetashotError(
                f"{path}: data.{name}.augment: augmentation is for pictures only; leave it empty: {{}}"
            )
    for trained, tested in product(file.cross.trained_on, file.cross.tested_on):
        if difference := _difference(forms[trained], forms[tested]):
            raise MetashotError(
                f"{path}: cross: the samples of {trained} and {tested} differ in form ({difference}): "
                "prepare them alike"
            )
    hypers = {}
    for name in file.method:
        try:
            cls = methods.METHODS[name]
        except MetashotError as error:
            raise MetashotError(f"{path}: method.{name}: {error}") from None
        hypers[name] = params.read(path, f"method.{name}", cls.params_type)
    for name in file.setting:
        setting: params.Setting = params.read(path, f"setting.{name}", params.Setting)
        if name in setting.extra:
            raise MetashotError(
                f"{path}: setting.{name}.extra.{name}: has the name of the setting itself: rename it"
            )
    for name, data in file.data.items():
        if unknown := set(data.budget) - set(file.method):
            raise MetashotError(f"{path}: data.{name}.budget.{min(unknown)}: no such method in `method`")
        for method, budget in data.budget.items():
            key = f"data.{name}.budget.{method}"
            _, hyper = params.training(path, key, hypers[method], budget)
            if params.maker(hyper) == "choosing":
                try:
                    choosing.networks(hyper.features, forms[name])
                except MetashotError as error:
                    raise MetashotError(f"{path}: {key}: features: {error}") from None
        for method in file.methods if name in file.datasets else ():
            if method not in data.budget:
                raise MetashotError(f"{path}: data.{name}.budget.{method}: missing")


def _difference(one: Any, other: Any) -> str:
    """Describe how two forms of samples differ; empty where they do not."""
    fields = (asdict(form) for form in (one, other))
    one, other = ({**form.pop("decoding"), **form} for form in fields)
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    shown = ["kind"] if "kind" in keys else keys  # samples of different kinds differ in everything
    return ", ".join(f"{key}: {one.get(key)} and {other.get(key)}" for key in shown)
