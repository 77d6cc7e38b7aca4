"""What a data set and setting has in MLflow once: its experiment, its registered model, the aliases."""

import json
from pathlib import Path

# Before MLflow, which reads when it is imported what this sets
from metashot.registry.tracking import NOTE, SQLITE

# isort: split
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from metashot.results import cards
from metashot.results.compare import Comparison

# isort: split

BEST_FIRST = {  # the UI's table of runs with the columns that matter, as its "share view" button stores it
    "orderByKey": "metrics.`test_accuracy`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "searchFilter": "",
    "selectedColumns": [
        "attributes.`Models`",
        *(f"tags.`{key}`" for key in ("standing", "accuracy", "data")),  # no more, or these are out of sight
    ],
}


def experiment(client: MlflowClient, uri: str, comparison: Comparison) -> str:
    """Make, restore or describe the experiment; return its id."""
    existing = client.get_experiment_by_name(comparison.group)
    if existing is None:
        artifacts = None  # a server has its own place for them
        if uri.startswith(SQLITE):
            artifacts = (Path(uri.removeprefix(SQLITE)).parent / "artifacts" / comparison.group).as_uri()
        existing = client.get_experiment(client.create_experiment(comparison.group, artifacts))
    elif existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    page = f"#/experiments/{existing.experiment_id}/runs"
    runs = f"{page}?workflowType=machine_learning&viewStateShareKey=metashot"
    tags = {
        NOTE: f"{cards.overview(comparison)}\n\n[All runs, best first]({runs})",
        "mlflow.experimentKind": "custom_model_development",  # runs and models, not traces and prompts
        "mlflow.sharedViewState.metashot": json.dumps(BEST_FIRST),
    }
    for key, value in tags.items():
        if existing.tags.get(key) != value:
            client.set_experiment_tag(existing.experiment_id, key, value)
    return str(existing.experiment_id)


def registered_model(client: MlflowClient, comparison: Comparison) -> None:
    """Make or describe the registered model."""
    description = f"{cards.overview(comparison)}\n\n{cards.usage(comparison.group, comparison.kind)}"
    tags = {
        "metashot.dataset": comparison.dataset,
        "metashot.setting": comparison.setting,
        "metashot.synthetic": str(comparison.synthetic).lower(),
        "metashot.known_classes": str(comparison.known_classes).lower(),
        **({"metashot.encoder": comparison.encoder} if comparison.encoder else {}),
    }
    try:
        existing = client.get_registered_model(comparison.group)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(comparison.group, tags=tags, description=description)
    else:
        if existing.description != description:
            client.update_registered_model(comparison.group, description)


def alias(client: MlflowClient, group: str, name: str, version: int | None) -> None:
    """Point an alias at a version, or take it away."""
    now = client.get_registered_model(group).aliases.get(name)
    if version is None:
        if now is not None:
            client.delete_registered_model_alias(group, name)
    elif now is None or int(now) != version:
        client.set_registered_model_alias(group, name, str(version))
