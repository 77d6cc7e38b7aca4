"""MLflow access: tracking URI, reachability, publisher lock."""

import logging
import os
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from metashot import network
from metashot.errors import MetashotError

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
RUN_TYPE = "metashot.kind"  # of a run: result, comparison or cross
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


@contextmanager
def connect(root: Path, advice: str = "see that it runs, then try again") -> Iterator[MlflowClient]:
    """Connect to MLflow; its errors within the block become one line.

    Raises:
        MetashotError: Nothing was ever published, or MLflow is not reachable; the line ends in ``advice``.
    """
    uri = tracking_uri(root)
    with told(uri, advice):
        if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
            raise MetashotError(
                f"no {uri.removeprefix(SQLITE)}: nothing is published yet, run `metashot publish`"
            )
        _try(uri)
        yield MlflowClient(uri, uri)


@contextmanager
def publishing(root: Path) -> Iterator[MlflowClient]:
    """The same for a publisher, one at a time: two at once would create a run or a version twice.

    Raises:
        MetashotError: MLflow is not reachable.
    """
    uri = tracking_uri(root)
    with told(uri, "run `metashot publish` when it is well"):
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
    """Update the artifact addresses in a database that was moved together with its files.

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


def pages(call: Callable[[str | None], Any]) -> list[Any]:
    """Return the results of all pages of a call, which takes the page token, None for the first."""
    entities: list[Any] = []
    token = None
    while True:
        page = call(token)
        entities += page
        token = page.token
        if not token:
            return entities


@contextmanager
def told(uri: str, advice: str) -> Iterator[None]:
    """Turn MLflow's errors in the block into one line."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every migration of a new database
    try:
        yield
    # the database or its folder cannot be used, or its driver is not installed
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        # not `from error`: whoever logs this one would log the address with its password
        raise MetashotError(f"MLflow at {uri} failed; {advice}: {line_of(error)}") from None


def _check(uri: str) -> None:
    """Raise MetashotError for a malformed address, before parts of it get into another error."""
    scheme = scheme_of(uri)
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


def scheme_of(uri: str) -> str:
    """The scheme of an address, without the driver: ``postgresql`` of ``postgresql+psycopg2://``."""
    return uri.partition(":")[0].partition("+")[0].lower()


def _try(uri: str, write: bool = False) -> None:
    """Try a database once, before MLflow retries for minutes; a server once, for ten seconds.

    Raises:
        MetashotError: It is not a file, or cannot be written to.
        OSError, sqlite3.Error: What the database says, or its driver lacks.
    """
    if uri.startswith(SQLITE):
        _try_file(Path(uri.removeprefix(SQLITE)), write)
    elif scheme_of(uri) in DATABASES:
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
    """The publisher lock on a server: a registered model whose name only one client can create.

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


def line_of(error: BaseException) -> str:
    """The message of an error, in one line."""
    return " ".join(str(error).split())
