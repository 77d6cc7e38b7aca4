"""Few-shot methods with small hyper-parameters and random weights."""

from metashot.learning.models import methods, runtime
from metashot.learning.models.methods.base import Method, Problem

METRIC = {"lr": 1e-3, "meta_batch": 2, "train_way": 3}
GRADIENT = METRIC | {"inner_lr": 0.3, "inner_steps": 2, "test_lr": 0.1, "test_steps": 5}
PARAMS = {
    "prototypical": METRIC | {"temperature": 2.0},
    "matching": METRIC | {"temperature": 0.1},
    "siamese": METRIC | {"margin": 2.0},
    "transfer": METRIC | {"head": "cosine", "scale": 10.0, "head_steps": 5, "head_lr": 0.1},
    "maml": GRADIENT | {"second_order": True, "query_norm": "query"},
    "reptile": GRADIENT | {"inner_shot": 2, "query_norm": "support"},
    "r2d2": METRIC | {"strength": 1.0, "scale": 10.0},
}
FREE = {
    "centroid": {"features": "auto"},
    "ridge": {"features": "auto", "strengths": (0.1, 1.0)},
    "neighbour": {"features": "auto"},
}  # methods without training


def build(name: str, problem: Problem, **changes: object) -> Method:
    """A method as `PARAMS` or `FREE` has it, ``changes`` applied; the same weights each time."""
    cls = methods.METHODS[name]
    params = cls.params_type(**(PARAMS | FREE)[name] | changes)
    with runtime.reproducible(0):
        return cls(params, problem)
