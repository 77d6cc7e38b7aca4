"""Servers with wrong addresses, silent or unable to start, and proxies: one line, within seconds."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import requests
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from project import ROOT, wait_until

from flows import server
from metashot import network
from metashot.errors import MetashotError
from metashot.registry import tracking

pytestmark = pytest.mark.slow

PROXIES = "http_proxy", "https_proxy", "all_proxy"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "no_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "")  # so that it is put back
            monkeypatch.delenv(spelling)


@pytest.fixture
def local() -> Iterator[int]:
    """The port of a server on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("proxy", [*PROXIES, *map(str.upper, PROXIES)])
def test_loopback_goes_through_no_proxy(proxy: str, local: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intern.example, .other")
    network.direct()
    gets: list[Callable[..., object]] = [httpx.get, requests.get, urllib.request.urlopen]
    for host, get in [(host, get) for host in ("127.0.0.1", "localhost") for get in gets]:
        get(f"http://{host}:{local}/", timeout=60)
    code = f"import requests; requests.get('http://127.0.0.1:{local}/', timeout=60)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert os.environ["NO_PROXY"] == "intern.example,.other,localhost,127.0.0.1,::1"


@pytest.mark.usefixtures("clean")
def test_a_star_stays_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    network.direct()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "*"


WRONG = {
    "junk": "is not an address of MLflow",
    "u:Zq7Yw2@host": "is not an address of MLflow",
    "file:///mlruns": "is not an address of MLflow",
    "http://": "is not an address such as",
    "http://host:port/": "is not an address such as",
    "http://u:Zq7/Yw2@host": "is not an address such as",
    "http://u:Zq7@Yw2@host": "is not an address such as",
    "http://u:12/Yw2@host": "has an @ after its host",
    "http://u:Zq7 Yw2@host": "is not an address such as",
    "postgresql://u:Zq7Yw2@host:port/db": "is not an address such as",
    "postgresql://u:Zq7@Yw2@host/db": "is not an address such as",
    "postgresql://u/Zq7:Yw2@host/db": "is not an address such as",
    "postgresql://u:Zq7Yw2@127.0.0.1:9/db": "postgresql://127.0.0.1:9/db failed; .*: No module named",
    "mysql+none://u:Zq7Yw2@host/db": r"MLflow at mysql\+none://host/db failed; .*: Can't load plugin",
    "http://u:Zq7Yw2@127.0.0.1:9/?password=Zq7Yw2": "MLflow at http://127.0.0.1:9/ failed",
    "http://no-such-host.invalid": "MLflow at http://no-such-host.invalid failed",
    "sqlite:///folder": "folder is not a file: name a file as MLflow's database",
    "sqlite:///text.db": "text.db failed; .*: file is not a database",
    "sqlite:////proc/x.db": "/proc cannot be written to .*name another file as MLflow's database",
    "sqlite:///text.db/x.db": "text.db/x.db failed",
}


@pytest.mark.parametrize("address", WRONG)
def test_mlflow_that_cannot_be_reached_is_one_line_within_seconds(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("no database, and long enough to be taken for one " * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before = sorted(tmp_path.iterdir())
    start = time.monotonic()
    with pytest.raises(MetashotError, match=WRONG[address]) as caught, tracking.publishing(tmp_path):
        pass
    assert time.monotonic() - start < 60  # MLflow itself would try for minutes
    assert not any(part in str(caught.value) for part in ("Zq7", "Yw2", "\n"))
    error = caught.value
    assert error.__context__ is None or error.__suppress_context__  # whoever logs it logs no address
    assert sorted(tmp_path.iterdir()) == before


def test_a_server_that_never_answers_is_given_up(
    silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with pytest.raises(MetashotError, match="timed out"), tracking.connect(tmp_path) as client:
        client.search_registered_models()
    monkeypatch.setattr(server, "ANSWER", 1)
    address = f"http://u:secret@127.0.0.1:{silent}/api"
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(MetashotError, match=rf"^Prefect at http://127.0.0.1:{silent}/api does not answer"),
    ):
        server.named()


@pytest.mark.parametrize(
    "address",
    [
        *("junk", "http://", "http://u:Zq7/Yw2@host/api", "http://u:Zq7@Yw2@host", "ftp://host/api"),
        *("http://host..example/api", f"http://{'a' * 64}/api", "http://u:Zq7\\@host/api"),
    ],
)
def test_a_prefect_address_that_is_none_is_one_line(address: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(MetashotError, match=r"^PREFECT_API_URL is not an address such as") as caught,
    ):
        server.named()
    assert "Zq7" not in str(caught.value)


def test_a_server_that_is_not_prefect_is_one_line(local: int) -> None:
    address = f"http://127.0.0.1:{local}/api"
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(MetashotError, match=r"is not the API of a Prefect server, whose address ends in /api"),
    ):
        server.named()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("proxy", ["socks5://u:Zq7Yw2@127.0.0.1:9", "foo://u:Zq7Yw2@127.0.0.1:9"])
def test_a_proxy_that_prefect_cannot_use_is_one_line(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(MetashotError, match=r"^Prefect cannot use the proxy of the environment") as caught:
        server.named()
    assert "Zq7" not in str(caught.value)


@pytest.mark.parametrize("home", ["/proc/x", "file"])
def test_a_home_that_prefect_cannot_write_to_is_one_line(home: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        temporary_settings({PREFECT_HOME: tmp_path / home}),
        pytest.raises(
            MetashotError, match=r"^Prefect cannot write to .*: name another folder in PREFECT_HOME"
        ),
    ):
        server.temporary.__wrapped__(tmp_path)


@pytest.mark.parametrize(
    ("variable", "profiles", "message"),
    [
        ("PREFECT_API_URL", "active = [[[", "profiles.toml or the variable"),
        ("PREFECT_API_REQUEST_TIMEOUT", "", "request_timeout: Input should be a valid number"),
        ("PREFECT_API_URL", 'active = "x"\n[profiles.x]\n', ""),
    ],
)
def test_settings_that_prefect_cannot_read_are_one_line(
    variable: str, profiles: str, message: str, tmp_path: Path
) -> None:
    """A profile without a server is not one of them: it leaves the choice to us."""
    (tmp_path / "profiles.toml").write_text(profiles)
    code = (
        "from flows import server\nfrom metashot.errors import MetashotError\n"
        "try: print(server.named())\nexcept MetashotError as error: print(error)"
    )
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), variable: "Zq7"}
    if not message:
        environment.pop(variable)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert (message in done.stdout) if message else done.stdout == "None\n"
    assert "Zq7" not in done.stdout


def test_a_temporary_server_that_ends_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect.db").write_text("no database, and long enough to be taken for one " * 20)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with pytest.raises(MetashotError, match=r"server did not start .*file is not a database.*prefect.log"):
        server.temporary.__wrapped__(tmp_path)


def test_a_temporary_server_outlasts_ctrl_c_and_ends_with_who_started_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, time; from pathlib import Path; from flows import server\n"
        # print may be interrupted by the signal and is not reentrant
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'interrupted\\n'))\n"
        "print(server.temporary(Path()), flush=True)\n"
        "while True: time.sleep(60)"
    )
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    starter = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert starter.stdout
        health = f"{starter.stdout.readline().strip()}/health"
        os.killpg(starter.pid, signal.SIGINT)
        assert starter.stdout.readline() == "interrupted\n"
        time.sleep(1)
        assert requests.get(health, timeout=60).json() is True
    finally:
        starter.kill()
        starter.wait()

    def gone() -> bool:
        try:
            return not requests.get(health, timeout=60)
        except requests.ConnectionError:
            return True

    wait_until(gone)
