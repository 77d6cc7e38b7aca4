"""What a person sees in MLflow, without MLflow's own ids and clocks: what two stores must agree in."""

from pathlib import Path

from mlflow import MlflowClient

from metashot.registry import tracking


def client_of(place: Path | str) -> MlflowClient:
    """The store of a repository, or the server at an address."""
    uri = place if isinstance(place, str) else f"sqlite:///{place}/mlruns/mlflow.db"
    return MlflowClient(uri, uri)


def snapshot(place: Path | str, group: str = "glyphs-5w1s") -> dict:
    """All of one data set and setting. Runs of one name are told apart by numbers, the earliest first."""
    client = client_of(place)
    (experiment,) = (e for e in client.search_experiments() if e.name == group)
    ids = [experiment.experiment_id]
    names: dict[str, str] = {}
    runs = sorted(client.search_runs(ids), key=lambda run: run.info.start_time)
    for run in runs:
        same = sum(name.split(" #")[0] == run.info.run_name for name in names.values())
        names[run.info.run_id] = f"{run.info.run_name} #{same + 1}" if same else run.info.run_name
    named = {names[run.info.run_id]: run for run in runs}
    model = client.get_registered_model(group)
    return {
        "experiment": {
            key: value.replace(f"experiments/{ids[0]}/", "experiments/ID/")
            for key, value in experiment.tags.items()
        },
        "runs": sorted((n, r.info.status, r.info.start_time, r.info.end_time) for n, r in named.items()),
        "tags": {name: run.data.tags for name, run in named.items()},
        "params": {name: run.data.params for name, run in named.items()},
        "points": {
            (name, key): sorted(
                (m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)
            )
            for name, run in named.items()
            for key in run.data.metrics
        },
        "inputs": {
            name: sorted(
                (i.dataset.name, i.dataset.digest, tuple(t.value for t in i.tags))
                for i in run.inputs.dataset_inputs
            )
            for name, run in named.items()
        },
        "compared": {  # a search leaves them out
            name: sorted(
                names[client.get_logged_model(i.model_id).source_run_id]
                for i in client.get_run(run.info.run_id).inputs.model_inputs
            )
            for name, run in named.items()
        },
        "outputs": {name: len(run.outputs.model_outputs) for name, run in named.items()},
        "files": {
            name: sorted(file.path for file in client.list_artifacts(run.info.run_id))
            for name, run in named.items()
        },
        "models": sorted(
            (
                m.name,
                str(m.status),
                names[m.source_run_id],
                sorted((x.key, x.value, x.dataset_name) for x in m.metrics),
                _tags(m.tags),
            )
            for m in client.search_logged_models(ids)
        ),
        "registered": (model.description, sorted(model.tags.items())),
        "versions": sorted(
            (int(v.version), names[v.run_id], v.description, _tags(v.tags))
            for v in client.search_model_versions(f"name = '{group}'")
        ),
        "aliases": {alias: int(number) for alias, number in model.aliases.items()},
    }


def _tags(tags: dict[str, str]) -> list[tuple[str, str]]:
    """Without the digest of a model's files, in which MLflow writes its ids."""
    return sorted((key, value) for key, value in tags.items() if key != tracking.FILES)
