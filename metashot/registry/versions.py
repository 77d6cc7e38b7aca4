"""Lookup, reading and loading of registered versions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from metashot import untrusted
from metashot.errors import MetashotError
from metashot.lineage.document import Document
from metashot.lineage.lockfile import Lock
from metashot.project import find_root
from metashot.registry.carried import CODE, RESULT, Code, parts

# Before MLflow, which reads when it is imported what this sets
from metashot.registry.tracking import (
    DATABRICKS,
    DOWNLOAD,
    ELSEWHERE,
    GONE,
    LINEAGE_FILE,
    SQLITE,
    connect,
    line_of,
    pages,
    scheme_of,
    told,
    tracking_uri,
)
from metashot.results import compare
from metashot.results.compare import Comparison
from metashot.untrusted import Refused

# isort: split
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities import LoggedModel, Metric, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException


@dataclass(frozen=True)
class Registered:
    """A registered version, with the run and the logged model behind it.

    Attributes:
        client: Where it is registered.
        entry: MLflow's entry of it.
        aliases: Those that point to it.
    """

    client: MlflowClient
    entry: ModelVersion
    aliases: tuple[str, ...]

    @property
    def number(self) -> int:
        """The version."""
        return int(self.entry.version)

    @property
    def name(self) -> str:
        """``<registered model>/<number>``."""
        return f"{self.entry.name}/{self.entry.version}"

    @cached_property
    def run(self) -> Run:
        """The run that shows its result.

        Raises:
            MetashotError: There is none.
        """
        with self._entity("run"):
            return self.client.get_run(self.entry.run_id)

    @cached_property
    def model(self) -> LoggedModel:
        """The logged model that it is a version of.

        Raises:
            MetashotError: The run has none whose files are the version's.
        """
        for output in self.run.outputs.model_outputs if self.run.outputs else []:
            with self._entity("logged model"):
                logged = self.client.get_logged_model(output.model_id)
            if logged.artifact_location == self.entry.source:
                return logged
        raise MetashotError(f"no logged model of its run has the files of {self.name}, {self.entry.source}")

    @cached_property
    def source(self) -> str:
        """Where MLflow loads the model's files from, which may differ from the entry's source."""
        with self._entity("source"):
            return str(self.client.get_model_version_download_uri(self.entry.name, self.entry.version))

    @cached_property
    def folder(self) -> Path:
        """The model's files, downloaded where they lie on a server; none of them a link or a special file.

        Raises:
            Refused: Some are not plain files.
            MetashotError: They are gone, or cannot be read.
        """
        try:
            base, folder = self._files(self.source)
            above = folder.relative_to(base).parts
            for depth in range(1, len(above) + 1):
                if base.joinpath(*above[:depth]).is_symlink():
                    raise Refused(f"{base.joinpath(*above[:depth])} is a symbolic link, not a folder")
            untrusted.listing(folder)
        except (OSError, ValueError) as error:
            raise MetashotError(f"{self.name} has no files at {self.source} ({line_of(error)})") from None
        return folder

    @cached_property
    def lineage(self) -> Document:
        """The lineage document that its run carries.

        Raises:
            MetashotError: There is none, or it is not laid out as metashot writes it.
        """
        uri = f"{self.run.info.artifact_uri}/{LINEAGE_FILE}"
        try:
            base, path = self._files(uri)
            content = untrusted.read(base, path.relative_to(base).as_posix(), untrusted.DOCUMENT)
            return Document.parse(content, LINEAGE_FILE)
        except (OSError, ValueError, MetashotError) as error:
            raise MetashotError(
                f"{self.name} carries no {LINEAGE_FILE} that can be read ({line_of(error)}): "
                "run `metashot publish` where it was made"
            ) from None

    def history(self, key: str) -> list[Metric]:
        """Every point of a metric."""
        with self._entity(f"history of {key}"):
            return list(self.client.get_metric_history(self.entry.run_id, key))

    @contextmanager
    def _entity(self, what: str) -> Iterator[None]:
        """Distinguish a missing entity from an MLflow that cannot be reached."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            raise MetashotError(f"{self.name} has no {what} in MLflow ({line_of(error)})") from None

    def _files(self, uri: str) -> tuple[Path, Path]:
        """Locate an artifact: a trusted base folder, and the path below it.

        Raises:
            Refused: On a server it has more files or bytes than metashot writes.
            MetashotError, OSError, ValueError: It cannot be read.
        """
        address = urlsplit(uri)
        if address.scheme in ("", "file"):
            path, database = Path(unquote(address.path)), self.client.tracking_uri
            if ".." in path.parts or not path.is_absolute():
                raise Refused(f"{uri!r} is not the address of a folder of MLflow's")
            path.lstat()
            kept = Path(database.removeprefix(SQLITE)).parent / "artifacts"
            return (kept if path.is_relative_to(kept) else path.parent), path
        if address.scheme in ELSEWHERE and scheme_of(self.client.tracking_uri) not in DATABRICKS:
            raise Refused(f"{uri} is not where files of this MLflow lie")
        try:
            self._bounded(uri)
            path = Path(download_artifacts(artifact_uri=uri, tracking_uri=self.client.tracking_uri))
        except MetashotError:
            raise
        except Exception as error:  # each kind of store has its own, or its package is not installed
            raise MetashotError(
                f"{uri} cannot be fetched: {line_of(error) or type(error).__name__}"
            ) from None
        return path.parent, path

    def _bounded(self, uri: str) -> None:
        """Refuse a download with too many files or bytes."""
        above, _, name = uri.rstrip("/").rpartition("/")
        folders, count, size = [above], 0, 0
        for folder in folders:
            held = list_artifacts(artifact_uri=folder, tracking_uri=self.client.tracking_uri)
            for item in held:
                own = item.path.rpartition("/")[2]
                if folder == above and own != name:
                    continue
                count, size = count + 1, size + (item.file_size or 0)
                if item.is_dir:
                    folders.append(f"{folder}/{own}")
            if count > untrusted.ENTRIES or size > DOWNLOAD:
                raise Refused(f"{uri} holds more than {untrusted.ENTRIES:,} files or {DOWNLOAD:,} bytes")


def registered_models(client: MlflowClient) -> tuple[list[RegisteredModel], dict[str, str]]:
    """Return metashot's registered models, and by name the errors of those that cannot be read."""
    unreadable: dict[str, str] = {}
    try:
        models = pages(lambda token: client.search_registered_models(page_token=token))
    except MlflowException:  # it may fail at what one of them has in the database: so one at a time
        models = []
        for experiment in pages(lambda token: client.search_experiments(page_token=token)):
            try:
                models.append(client.get_registered_model(experiment.name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    unreadable[experiment.name] = f"what MLflow holds of it cannot be read ({line_of(error)})"
    ours = (model for model in models if "metashot.dataset" in model.tags)
    return sorted(ours, key=lambda model: model.name), unreadable


@contextmanager
def held(client: MlflowClient, name: str) -> Iterator[None]:
    """Turn MLflow's failure on one model's database rows into a MetashotError, so that others are still read.

    Raises:
        MetashotError: It fails, and not because it is not reachable.
    """
    try:
        yield
    except MlflowException as error:
        client.search_experiments(max_results=1)  # which fails as well where MLflow is not reachable
        raise MetashotError(f"what MLflow holds of {name} cannot be read ({line_of(error)})") from None


def registered(client: MlflowClient, model: RegisteredModel) -> list[Registered]:
    """Return every version of a registered model, by number.

    Raises:
        MetashotError: MLflow cannot say which they are.
    """
    try:
        versions = pages(
            lambda token: client.search_model_versions(f"name = '{model.name}'", page_token=token)
        )
    except MlflowException as error:
        client.get_registered_model(model.name)  # which fails as well where MLflow is not reachable
        raise MetashotError(f"the versions of {model.name} cannot be read ({line_of(error)})") from None
    versions.sort(
        key=lambda version: (len(str(version.version)), str(version.version))
    )  # it may not be a number
    return [Registered(client, version, _aliases(model, version)) for version in versions]


def resolve(client: MlflowClient, reference: str) -> Registered:
    """Return the version that ``MODEL``, ``MODEL@ALIAS`` or ``MODEL/VERSION`` names.

    A model alone stands for its champion, or for the latest version where it has none.

    Raises:
        MetashotError: There is no such model, alias or version.
    """
    name, mark, which = reference.partition("@")
    if not mark:
        name, mark, which = reference.partition("/")
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = ", ".join(model.name for model in registered_models(client)[0]) or "none"
        raise MetashotError(f"no registered model {name!r} (there are: {known})") from None
    versions = registered(client, model)
    if mark == "@" or (not mark and "champion" in model.aliases):
        alias = which or "champion"
        if alias not in model.aliases:
            known = ", ".join(sorted(model.aliases)) or "none"
            raise MetashotError(f"{name} has no alias {alias!r} (it has: {known})")
        which = str(model.aliases[alias])
    if not which and versions:
        return versions[-1]
    for version in versions:
        if str(version.entry.version) == which:
            return version
    known = ", ".join(str(version.entry.version) for version in versions) or "none"
    raise MetashotError(f"{name} has no version {which or 'at all'} (it has: {known})")


def versions(root: Path, comparison: Comparison) -> dict[str, int]:
    """Return the current version of each registered row; empty where MLflow was never used.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    uri = tracking_uri(root)
    with told(uri, "see that it can be read"):
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
            return {}
    cells = compare.sources(Lock(root), comparison)
    codes = {
        row.result: Code.present(parts(comparison.kind, cells[row.name][1])).digest for row in comparison.rows
    }
    with connect(root) as client:
        pages_ = pages(
            lambda token: client.search_model_versions(f"name = '{comparison.group}'", page_token=token)
        )
        numbers = {
            v.tags[RESULT]: int(v.version)
            for v in pages_
            if v.tags.get(CODE) == codes.get(v.tags.get(RESULT, ""))
        }
    return {row.name: numbers[row.result] for row in comparison.rows if row.result in numbers}


def load_model(uri: str) -> Any:
    """Load a registered model for predictions: MLflow's pyfunc.

    Args:
        uri: As MLflow has it: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.

    Raises:
        MetashotError: MLflow is not reachable, or has no such model.
    """
    import mlflow.pyfunc

    root = Path.cwd() if os.environ.get("MLFLOW_TRACKING_URI") else find_root(Path.cwd())
    with connect(root) as client:
        mlflow.set_tracking_uri(client.tracking_uri)
        mlflow.set_registry_uri(client.tracking_uri)
        return mlflow.pyfunc.load_model(uri)


def _aliases(model: RegisteredModel, version: ModelVersion) -> tuple[str, ...]:
    return tuple(sorted(a for a, number in model.aliases.items() if str(number) == str(version.version)))
