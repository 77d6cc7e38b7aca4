"""Decide which model of a data set and setting is champion."""

from pathlib import Path

from metashot.config.params import Gate, Threads
from metashot.files import replacing
from metashot.results import gate
from metashot.results.decision import decision_path
from stages import read_params, run


def main(dataset: str, setting: str) -> None:
    """Write reports/<data set>-<setting>-gate.json."""
    root, group = Path.cwd(), f"{dataset}-{setting}"
    methods: list[str] = read_params("methods", list[str])
    rule: Gate = read_params("gate", Gate)
    threads: int = read_params("threads", Threads)
    decision = gate.judge(root, dataset, setting, methods, rule, gate.read_bans(root, group), threads)
    with replacing(Path(decision_path(group))) as partial:
        partial.write_text(decision.json, encoding="utf-8")


if __name__ == "__main__":
    run(main)
