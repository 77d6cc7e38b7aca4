"""Downloads, against a real server on loopback that can be told to misbehave."""

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metashot.data.files import fetch as fetching
from metashot.data.files.fetch import fetch
from metashot.errors import MetashotError

CONTENT = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT as /a.zip; `cuts` are the bytes after which the next answers break off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []  # as asked for
        self.knows_ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/a.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = 0
        if self.path != "/a.zip":
            self.send_error(404)
            return
        if asked and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[start : start + cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fails(url: str, target: Path, digests: tuple[str, ...], mirror: Path | None = None) -> str:
    """The message of a download that has to fail."""
    with pytest.raises(MetashotError) as caught:
        fetch(url, target, digests, mirror)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("digests", [(MD5,), (SHA256,), ("0" * 32, SHA256, MD5)])
def test_download(server: Server, tmp_path: Path, digests: tuple[str, ...]) -> None:
    target = tmp_path / "a.zip"
    fetch(server.url, target, digests)
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def test_a_right_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert server.ranges == []


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [2_000_000, 500_000]
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    first, *rest = server.ranges
    starts = [int(re.fullmatch(r"bytes=(\d+)-", str(header))[1]) for header in rest]  # type: ignore[index]
    assert first is None
    assert starts == sorted(starts)
    assert starts[0] > 0


def test_a_later_call_resumes_too(server: Server, tmp_path: Path) -> None:
    server.cuts = [2_000_000, 0]  # the second attempt brings nothing, so the first call gives up
    message = fails(server.url, tmp_path / "a.zip", (MD5,))
    assert server.url in message
    assert "METASHOT_MIRROR" in message
    have = (tmp_path / "a.zip.part").stat().st_size
    assert 0 < have <= 2_000_000
    assert not (tmp_path / "a.zip").exists()
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert server.ranges[-1] == f"bytes={have}-"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert not (tmp_path / "a.zip.part").exists()


def test_a_server_without_ranges_makes_it_restart(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_partial_file_that_lacks_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_wrong_checksum_leaves_the_previous_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_bytes(b"previous")
    message = fails(server.url, target, ("0" * 32, "1" * 64))
    assert "wrong checksum" in message
    assert server.url in message
    assert target.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [target]


def test_a_stale_partial_file_does_not_stick(server: Server, tmp_path: Path) -> None:
    """The end of another version appended to the beginning of this one: refused once, then loaded anew."""
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    assert "wrong checksum" in fails(server.url, tmp_path / "a.zip", (MD5,))
    fetch(server.url, tmp_path / "a.zip", (MD5,))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_no_such_page(server: Server, tmp_path: Path) -> None:
    assert "404" in fails(server.url + "x", tmp_path / "a.zip", (MD5,))
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url
    message = fails(url, tmp_path / "a.zip", (MD5,))
    assert url in message
    assert "METASHOT_MIRROR=DIR" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.zip", "a_repacked.zip"])
def test_mirror(tmp_path: Path, name: str) -> None:
    mirror, target = tmp_path / "mirror", tmp_path / "a.zip"
    mirror.mkdir()
    (mirror / name).write_bytes(CONTENT)
    fetch("http://127.0.0.1:9/a.zip", target, (MD5,), mirror)
    assert target.read_bytes() == CONTENT


def test_mirror_without_the_file_asks_no_server(server: Server, tmp_path: Path) -> None:
    message = fails(server.url, tmp_path / "a.zip", (MD5,), tmp_path)
    assert "a.zip" in message
    assert "a_repacked.zip" in message
    assert server.ranges == []


def test_mirror_with_a_truncated_file(tmp_path: Path) -> None:
    mirror, target = tmp_path / "mirror", tmp_path / "a.zip"
    mirror.mkdir()
    (mirror / "a.zip").write_bytes(CONTENT[:-1])
    target.write_bytes(b"previous")
    assert str(mirror / "a.zip") in fails("http://127.0.0.1:9/a.zip", target, (MD5,), mirror)
    assert target.read_bytes() == b"previous"


def test_mirror_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASHOT_MIRROR", raising=False)
    assert fetching.mirror() is None
    monkeypatch.setenv("METASHOT_MIRROR", str(tmp_path))
    assert fetching.mirror() == tmp_path
    monkeypatch.setenv("METASHOT_MIRROR", str(tmp_path / "absent"))
    with pytest.raises(MetashotError, match="absent: no such directory"):
        fetching.mirror()
