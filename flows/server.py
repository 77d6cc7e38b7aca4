"""The Prefect server that records a run: the one in Prefect's settings, or a temporary one.

``python -m flows.server FD`` is the temporary one, on a socket that it inherits. It serves until its standard
input is closed, so it ends with the process that started it, however that ends.
"""

import atexit
import contextlib
import functools
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests

from metashot import network
from metashot.errors import MetashotError
from metashot.project import attempts

ANSWER = 10.0  # seconds that a server may take to answer
START = 120.0  # seconds that a temporary server may take to start
STOP = 5.0  # seconds that it may take to stop
WITHOUT = "`dvc repro` needs no server"


def named() -> str | None:
    """Return the address of the server in Prefect's settings, once it answers; None if they name none.

    Raises:
        MetashotError: The settings cannot be read, or the server does not answer.
    """
    url: str | None = _settings().api.url
    if not url:
        return None
    network.check_address("PREFECT_API_URL", url)
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=ANSWER)
        answer.raise_for_status()
        is_prefect = answer.json() is True
    except requests.JSONDecodeError:
        is_prefect = False
    except requests.RequestException as error:
        from_environment = "PREFECT_API_URL" in os.environ  # or else from a profile
        unset = "unset PREFECT_API_URL" if from_environment else "`prefect config unset PREFECT_API_URL`"
        raise MetashotError(
            f"Prefect at {url} does not answer ({type(error).__name__}): start it, or {unset}; {WITHOUT}"
        ) from None
    if not is_prefect:
        raise MetashotError(
            f"{url} is not the API of a Prefect server, whose address ends in /api; {WITHOUT}"
        )
    return url


@functools.cache
def temporary(root: Path) -> str:
    """Start a server that ends with this process; return its address, once it answers.

    Prefect would start one by itself, but not notice if that ended: it would wait for minutes, or forever.

    Raises:
        MetashotError: It cannot start; its output is in a log.
    """
    home: Path = _settings().home
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise MetashotError(
            f"Prefect cannot write to {home} ({error.strerror}): name another folder in PREFECT_HOME; "
            f"{WITHOUT}"
        ) from None
    log = root / attempts.FOLDER / "logs/prefect.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listener, log.open("wb") as output:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(listener.fileno())],
            env=_environment(),
            pass_fds=[listener.fileno()],  # bound here, so that no other program takes the port
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,  # out of reach of Ctrl-C: the flow needs the server until it has stopped
        )
    atexit.register(_stop, process)
    deadline = time.monotonic() + START
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            reason = _reason(process, log)
            _stop(process)
            raise MetashotError(f"Prefect's temporary server did not start ({reason}; log: {log}); {WITHOUT}")
        time.sleep(0.1)
    return f"{address}/api"


def use(address: str) -> None:
    """Make Prefect use a server from now on, in every thread of this process."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = address
    refresh_global_settings_context()


def _settings() -> Any:
    """Return Prefect's settings.

    Raises:
        MetashotError: They cannot be read, or Prefect cannot use the proxy that the environment names.
    """
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise MetashotError(
            f"Prefect cannot use the proxy of the environment ({error}): unset ALL_PROXY and the like "
            f"for this command; {WITHOUT}"
        ) from None
    try:
        # It also warns about what it then raises
        with contextlib.redirect_stderr(io.StringIO()):
            import prefect.context
        return prefect.context.get_settings_context().settings
    except Exception as error:  # errors of many types, raised while a file or variable is parsed
        home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
        profiles = os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"
        raise MetashotError(
            f"Prefect cannot read its settings ({_cause(error)}): mend {profiles} or the variable "
            f"PREFECT_... that it names; {WITHOUT}"
        ) from None


def _cause(error: Exception) -> str:
    """Describe an error in one line, without the value of a setting, which may be secret."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _environment() -> dict[str, str]:
    """Return the settings with which Prefect starts a temporary server: without the UI, for one process."""
    return {
        **os.environ,
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",  # to its log
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }


def _answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/api/health", timeout=ANSWER).ok
    except requests.RequestException:
        return False


def _reason(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the last error in a server's log, or else how the server ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if errors := [line.strip() for line in lines if "Error: " in line]:
        return errors[-1]
    status = process.poll()
    return f"no answer within {START:.0f} seconds" if status is None else f"it ended with status {status}"


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(listener: socket.socket) -> None:
    """Serve Prefect's API on a bound socket for as long as standard input is open."""
    import uvicorn

    def stop_at_end_of_input() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
