"""A comparison written by hand: six models, one of them an incumbent, and what the best leads by."""

from dataclasses import replace

from metashot.learning.statistics import Difference
from metashot.results.compare import Comparison, Row
from metashot.results.decision import Decision, Standing
from metashot.results.differences import Gain, Pair

FAR = (
    Difference(0.0012, -0.0068, 0.0092, 0.77, 380, 260, 360, 90_481),
    Difference(0.0063, 0.0031, 0.0095, 0.0001, 420, 230, 350, 207),
    Difference(0.0412, 0.0352, 0.0472, 0.0, 612, 108, 280, 18),
    Difference(0.3104, 0.1103, 0.5105, 0.0, 801, 49, 150, 55),
    Difference(0.3781, 0.3644, 0.3918, 0.0, 978, 2, 20, 2),
)
CLOSE = (
    Difference(0.0, -0.0021, 0.0021, 1.0, 300, 400, 300, None),
    Difference(0.0004, -0.0014, 0.0022, 0.66, 330, 350, 320, 160_481),
    Difference(0.0031, 0.0009, 0.0053, 0.0058, 401, 261, 338, 1024),
)


def _row(method: str, accuracy: float, ci95: float, untrained: float, untrained_ci95: float, **more) -> Row:
    rest = {"transductive": False, "extra": {}, "model": f"{method}.dir", "result": f"{method} result"}
    return Row(method, accuracy, ci95, untrained, untrained_ci95, 111_936, **rest | more)


KEPT = {"incumbent": True, "model": "kept.dir", "result": "kept result"}
ROWS = (
    _row("maml", 0.9871, 0.0021, 0.22, 0.03, transductive=True),
    _row("prototypical", 0.9859, 0.0024, 0.453, 0.01),
    _row("prototypical", 0.9808, 0.0031, 0.448, 0.01, **KEPT),
    _row("matching", 0.9459, 0.0044, 0.9, 0.007),
    _row("siamese", 0.6767, 0.2001, 0.25, 0.19),
    _row("reptile", 0.609, 0.0123, 0.195, 0.02, transductive=True),
)


GROUPED = (  # ten methods, of which three are not trained
    *(row for row in ROWS if not row.incumbent),
    _row("r2d2", 0.9702, 0.0031, 0.31, 0.01),
    _row("transfer", 0.8012, 0.0066, 0.36, 0.02),
    *(
        replace(
            _row(method, accuracy, ci95, 0.0, 0.0),
            untrained_accuracy=None,
            untrained_ci95=None,
            parameters=0,
            group="training-free",
            features=features,
        )
        for method, accuracy, ci95, features in (
            ("ridge", 0.9748, 0.0029, "hog"),
            ("centroid", 0.9105, 0.0052, "hog"),
            ("neighbour", 0.7411, 0.0077, "outline_statistics_minirocket"),
        )
    ),
)


def grouped(low: float = 0.0101, high: float = 0.0145, encoder: str = "") -> Comparison:
    """Ten methods on the same episodes, trained or not, and what meta-training gained."""
    rows = sorted(GROUPED, key=lambda row: -row.accuracy)
    rows = [replace(row, pretrained=bool(encoder)) for row in rows]
    best = rows[0]
    pairs = [
        Pair(best.name, row.name, replace(FAR[2], mean=mean, low=mean - 0.004, high=mean + 0.004), 0.0)
        for row in rows[1:]
        for mean in [best.accuracy - row.accuracy]
    ]
    difference = replace(FAR[0], mean=(low + high) / 2, low=low, high=high)
    gains = [
        Gain(setting, "maml", free, difference) for setting, free in (("5w1s", "ridge"), ("5w5s", "centroid"))
    ]
    return replace(made(), rows=rows, pairs=pairs, gains=gains, encoder=encoder, known_classes=False)


def made(differences=FAR, p_values=(0.77, 0.0004, 0.0, 0.0, 0.0), champion: int | None = 2) -> Comparison:
    """As many models as there are differences, and the best; the champion's place among them."""
    rows = list(ROWS[: 1 + len(differences)])
    best, *others = rows
    standings = [Standing(row.method, row.model, row.accuracy, row.ci95) for row in ROWS]
    decision = Decision(
        manifest="m" * 32,
        judged={row.method: row.model for row in rows if not row.incumbent},
        min_accuracy=0.0,
        allowed_regression=0.0,
        incumbent=standings[2],
        challenger=standings[0],
        difference=None,
        retested={},
        champion=None if champion is None else standings[champion],
        promoted=False,
        reasons=["the first reason", "the second reason"],
    )
    pairs = [
        Pair(best.name, row.name, difference, p)
        for row, difference, p in zip(others, differences, p_values, strict=True)
    ]
    return Comparison(
        dataset="flowers",
        setting="5w1s",
        synthetic=True,
        known_classes=True,
        encoder="",
        kind="images",
        n_way=5,
        k_shot=1,
        n_query=15,
        episodes=1000,
        manifest="m" * 32,
        rows=rows,
        pairs=pairs,
        decision=decision,
    )
