"""The way to MLflow: where it is, one publisher at a time, and what it says of registered versions."""

import logging
import os
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from metashot import network, untrusted
from metashot.errors import MetashotError
from metashot.lineage import documents
from metashot.lineage.lockfile import Lock
from metashot.project import find_root
from metashot.registry.carried import CODE, RESULT, Code, parts
from metashot.results import compare
from metashot.results.compare import Comparison
from metashot.untrusted import Refused

network.direct()
# Set before the import, which reads some of them. A server that is down is reported in seconds, not minutes.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request whose answer was lost would make its run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_UV_AUTO_DETECT": "false",  # what a model needs does not depend on the current folder
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # below it are remarks on pip and on input examples
}.items():
    os.environ.setdefault(_name, _value)

from mlflow import MlflowClient  # noqa: E402
from mlflow.artifacts import download_artifacts, list_artifacts  # noqa: E402
from mlflow.entities import LoggedModel, Metric, Run  # noqa: E402
from mlflow.entities.model_registry import ModelVersion, RegisteredModel  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy import create_engine, make_url  # noqa: E402
from sqlalchemy.exc import ArgumentError, SQLAlchemyError  # noqa: E402
from sqlalchemy.pool import NullPool  # noqa: E402

SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}mlruns/mlflow.db"
LINEAGE = "metashot.lineage"  # digest of the document that the run carries as LINEAGE_FILE
LINEAGE_FILE = "lineage.json"
FILES = "metashot.files"  # digest of the files of a registered model
COMMIT = "metashot.commit"  # a commit whose dvc.lock has the result
PUBLISHER = "metashot.publisher"  # who registered a version, where, with which code
DECISION = "metashot.decision"  # DVC's md5 of the decision file that the aliases follow
KIND = "metashot.kind"  # of a run: result, comparison or cross
ALIASES = "challenger", "champion"
NOTE = "mlflow.note.content"
DOWNLOAD = 2**32  # bytes of a model's files, or a run's, that are fetched from a server
GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # what MLflow says of what is not there
ADDRESSES = (  # the columns of MLflow's database that hold addresses of files
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
LEASE = "metashot-publishing"  # the registered model that stands for the right to publish to a server
BEAT = 5.0  # seconds between signs of life of whoever holds it
DEAD = 60.0  # seconds without one after which it is taken away
ANSWER = 15.0  # seconds that a database is given to answer in
DATABASES = "postgresql", "mysql", "mssql"  # which MLflow can use without a server of its own
DATABRICKS = "databricks", "databricks-uc", "uc"
ELSEWHERE = "dbfs", "models", "runs"  # addresses of files that MLflow looks up in another store, or makes one


def tracking_uri(root: Path) -> str:
    """Return where MLflow is: ``MLFLOW_TRACKING_URI`` or ``mlruns/mlflow.db``, relative to the repository.

    Raises:
        MetashotError: The variable holds no address that MLflow could use.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    _check(uri)
    scheme, found, path = uri.partition(SQLITE)
    return f"{SQLITE}{(root / path).resolve()}" if found and not scheme else uri


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
                found = self.client.get_logged_model(output.model_id)
            if found.artifact_location == self.entry.source:
                return found
        raise MetashotError(f"no logged model of its run has the files of {self.name}, {self.entry.source}")

    @cached_property
    def source(self) -> str:
        """Where MLflow takes the model's files from: not always what the entry names as its source."""
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
            raise MetashotError(f"{self.name} has no files at {self.source} ({_line(error)})") from None
        return folder

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """The lineage document that its run carries (`metashot.lineage.documents`).

        Raises:
            MetashotError: There is none, or it is not laid out as metashot writes it.
        """
        uri = f"{self.run.info.artifact_uri}/{LINEAGE_FILE}"
        try:
            base, path = self._files(uri)
            content = untrusted.read(base, path.relative_to(base).as_posix(), untrusted.DOCUMENT)
            return documents.validated(untrusted.parsed(content, LINEAGE_FILE))
        except (OSError, ValueError, MetashotError) as error:
            raise MetashotError(
                f"{self.name} carries no {LINEAGE_FILE} that can be read ({_line(error)}): "
                "run `metashot publish` where it was made"
            ) from None

    def history(self, key: str) -> list[Metric]:
        """Every point of a metric."""
        with self._entity(f"history of {key}"):
            return list(self.client.get_metric_history(self.entry.run_id, key))

    @contextmanager
    def _entity(self, what: str) -> Iterator[None]:
        """Tell apart an entity that is gone from an MLflow that is not reachable."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in GONE:
                raise
            raise MetashotError(f"{self.name} has no {what} in MLflow ({_line(error)})") from None

    def _files(self, uri: str) -> tuple[Path, Path]:
        """Where a file or a folder of MLflow's is: a folder that can be trusted, and the path below it.

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
        if address.scheme in ELSEWHERE and _scheme(self.client.tracking_uri) not in DATABRICKS:
            raise Refused(f"{uri} is not where files of this MLflow lie")
        try:
            self._bounded(uri)
            path = Path(download_artifacts(artifact_uri=uri, tracking_uri=self.client.tracking_uri))
        except MetashotError:
            raise
        except Exception as error:  # each kind of store has its own, or its package is not installed
            raise MetashotError(f"{uri} cannot be fetched: {_line(error) or type(error).__name__}") from None
        return path.parent, path

    def _bounded(self, uri: str) -> None:
        """Refuse what is too much to be fetched from a server."""
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


@contextmanager
def connect(root: Path, advice: str = "see that it runs, then try again") -> Iterator[MlflowClient]:
    """MLflow, which the block may ask anything; what goes wrong with it becomes one line.

    Raises:
        MetashotError: Nothing was ever published, or MLflow is not reachable; the line ends in ``advice``.
    """
    uri = tracking_uri(root)
    with _told(uri, advice):
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
            raise MetashotError(
                f"no {uri.removeprefix(SQLITE)}: nothing is published yet, run `metashot publish`"
            )
        _try(uri)
        yield MlflowClient(uri, uri)


@contextmanager
def publishing(root: Path) -> Iterator[MlflowClient]:
    """The same for whoever adds to it, one at a time: two at once would make a run or a version twice.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    uri = tracking_uri(root)
    with _told(uri, "run `metashot publish` when it is well"):
        if not uri.startswith(SQLITE):
            _try(uri)
            client = MlflowClient(uri, uri)
            with _lease(client):
                yield client
            return
        database = Path(uri.removeprefix(SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        _try(uri, write=True)  # before the lock, which is waited for where it cannot be made
        with FileLock(database.with_name(".publish.lock")):
            follow_move(database)
            yield MlflowClient(uri, uri)  # makes the database where there is none


def follow_move(database: Path) -> None:
    """Bring a database's addresses of files up to date where it has moved together with them.

    MLflow notes where files lie by absolute addresses. Those of experiments whose files lie beside the
    database now, in ``artifacts/<experiment>``, are made to say so.
    """
    if not database.exists():
        return
    here = (database.parent / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        moved = set()
        for name, location in connection.execute("SELECT name, artifact_location FROM experiments"):
            before = str(location).removesuffix(f"/{name}")
            lies_here = (database.parent / "artifacts" / name).is_dir()
            if before.endswith("/artifacts") and before != here and lies_here:
                moved.add(before)
        for before in moved:
            for table, column in ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, len(before) + 1, f"{before}/"),
                )


def registered_models(client: MlflowClient) -> tuple[list[RegisteredModel], dict[str, str]]:
    """Return every registered model that metashot publishes, and why others, by name, cannot be read."""
    unreadable: dict[str, str] = {}
    try:
        found = pages(lambda token: client.search_registered_models(page_token=token))
    except MlflowException:  # it may fail at what one of them has in the database: so one at a time
        found = []
        for experiment in pages(lambda token: client.search_experiments(page_token=token)):
            try:
                found.append(client.get_registered_model(experiment.name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    unreadable[experiment.name] = f"what MLflow holds of it cannot be read ({_line(error)})"
    ours = (model for model in found if "metashot.dataset" in model.tags)
    return sorted(ours, key=lambda model: model.name), unreadable


@contextmanager
def held(client: MlflowClient, name: str) -> Iterator[None]:
    """Tell what MLflow fails at in the block of what its database has of one model, so that others are read.

    Raises:
        MetashotError: It fails, and not because it is not reachable.
    """
    try:
        yield
    except MlflowException as error:
        client.search_experiments(max_results=1)  # which fails as well where MLflow is not reachable
        raise MetashotError(f"what MLflow holds of {name} cannot be read ({_line(error)})") from None


def registered(client: MlflowClient, model: RegisteredModel) -> list[Registered]:
    """Return every version of a registered model, by number.

    Raises:
        MetashotError: MLflow cannot say which they are.
    """
    try:
        found = pages(lambda token: client.search_model_versions(f"name = '{model.name}'", page_token=token))
    except MlflowException as error:
        client.get_registered_model(model.name)  # which fails as well where MLflow is not reachable
        raise MetashotError(f"the versions of {model.name} cannot be read ({_line(error)})") from None
    found.sort(
        key=lambda version: (len(str(version.version)), str(version.version))
    )  # it may not be a number
    return [Registered(client, version, _aliases(model, version)) for version in found]


def resolve(client: MlflowClient, wanted: str) -> Registered:
    """Return the version that ``MODEL``, ``MODEL@ALIAS`` or ``MODEL/VERSION`` names.

    A model alone stands for its champion, or for the latest version where it has none.

    Raises:
        MetashotError: There is no such model, alias or version.
    """
    name, mark, which = wanted.partition("@")
    if not mark:
        name, mark, which = wanted.partition("/")
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
    """Return the version of each row that is registered as it is now; none where MLflow was never used.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    uri = tracking_uri(root)
    with _told(uri, "see that it can be read"):
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
        found = {
            v.tags[RESULT]: int(v.version)
            for v in pages_
            if v.tags.get(CODE) == codes.get(v.tags.get(RESULT, ""))
        }
    return {row.name: found[row.result] for row in comparison.rows if row.result in found}


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


def pages(call: Callable[[str | None], Any]) -> list[Any]:
    """Return all that a paged call finds; it is given the token of each page, None for the first."""
    found: list[Any] = []
    token = None
    while True:
        page = call(token)
        found += page
        token = page.token
        if not token:
            return found


@contextmanager
def _told(uri: str, advice: str) -> Iterator[None]:
    """Tell in one line what goes wrong with MLflow in the block."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every migration of a new database
    try:
        yield
    # the database or its folder cannot be used, or its driver is not installed
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        # not `from error`: whoever logs this one would log the address with its password
        raise MetashotError(f"MLflow at {uri} failed; {advice}: {_line(error)}") from None


def _check(uri: str) -> None:
    """Raise a MetashotError for what is not an address, before anything puts parts of it into an error."""
    scheme = _scheme(uri)
    if scheme in ("http", "https"):
        network.check_address("MLFLOW_TRACKING_URI", uri)
    elif scheme in DATABASES:
        try:
            url = make_url(uri)
            well_formed = "@" not in f"{url.host}{url.database}"  # the rest of a password
        except (ArgumentError, ValueError):
            well_formed = False
        if not well_formed:
            raise MetashotError(
                "MLFLOW_TRACKING_URI is not an address such as postgresql://host:port/database; in a user "
                "name or password write characters other than letters and digits as %XX"
            )
    elif not uri.startswith(SQLITE) and scheme not in DATABRICKS:
        raise MetashotError(
            "MLFLOW_TRACKING_URI is not an address of MLflow: unset it, or name a server (https://host), a "
            "file (sqlite:///mlflow.db) or a database (postgresql://host/database)"
        )


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].partition("+")[0].lower()


def _try(uri: str, write: bool = False) -> None:
    """Try a database once, before MLflow does so for minutes; a server it asks once, for ten seconds.

    Raises:
        MetashotError: It is not a file, or cannot be written to.
        OSError, sqlite3.Error: What the database says, or its driver lacks.
    """
    if uri.startswith(SQLITE):
        _try_file(Path(uri.removeprefix(SQLITE)), write)
    elif _scheme(uri) in DATABASES:
        _try_database(uri)


def _try_file(database: Path, write: bool) -> None:
    """Read from an SQLite database; see that it can be written to, or made, without doing so."""
    if write:
        try:
            with tempfile.TemporaryFile(dir=database.parent) as file:
                file.write(bytes(1 << 16))
        except OSError as error:
            raise MetashotError(
                f"{database.parent} cannot be written to ({error.strerror}): free space or take rights, or "
                "name another file as MLflow's database"
            ) from None
    if not database.exists():
        return
    if not database.is_file():
        raise MetashotError(f"{database} is not a file: name a file as MLflow's database")
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master")
        if write:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE metashot (written)")  # begins a journal
            connection.rollback()


def _try_database(uri: str) -> None:
    """Connect to a database; a driver may wait for ever by itself."""
    failed: list[Exception] = []

    def connect() -> None:
        try:
            create_engine(uri, poolclass=NullPool).connect().close()
        except Exception as error:  # each driver has its own
            failed.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(ANSWER)
    if failed:
        raise ConnectionError(str(failed[0]))
    if thread.is_alive():
        raise TimeoutError(f"no answer within {ANSWER:.0f} seconds")


@contextmanager
def _lease(client: MlflowClient) -> Iterator[None]:
    """The right to publish to a server: a registered model of a name that only one can create.

    A holder changes its description every few seconds. Where it stays the same for a minute by the clock of
    one who waits, the holder is dead: the model is renamed, which only one can do, and deleted.
    """
    me = uuid.uuid4().hex
    seen, since = "", time.monotonic()
    while True:
        try:
            client.create_registered_model(LEASE, description=f"{me} 0")
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with suppress(MlflowException):  # given back meanwhile, or taken away by another who waits
            said = client.get_registered_model(LEASE).description or ""
            if said != seen:
                seen, since = said, time.monotonic()
            elif time.monotonic() - since > DEAD:
                dead = f"{LEASE}-{seen.partition(' ')[0]}"
                client.rename_registered_model(LEASE, dead)
                client.delete_registered_model(dead)
        time.sleep(0.5)
    ended = threading.Event()

    def live() -> None:
        beat = 0
        while not ended.wait(BEAT):
            beat += 1
            with suppress(MlflowException):  # a server that is away comes back, or the block fails by itself
                client.update_registered_model(LEASE, f"{me} {beat}")

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(MlflowException):  # the server is gone: whoever publishes next takes it away
            client.delete_registered_model(LEASE)


def _aliases(model: RegisteredModel, version: ModelVersion) -> tuple[str, ...]:
    return tuple(sorted(a for a, number in model.aliases.items() if str(number) == str(version.version)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
