"""Server processes of tests, on loopback."""

import os
import random
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from project import wait_until

# Below the range from which Linux takes the ports of outgoing connections: between the choice of a port and
# the start of a server, or its restart, no connection takes it. Not seeded, or two tests might agree on one.
PORTS = range(15_000, 32_000)
_random = random.SystemRandom()


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    while True:
        port = _random.choice(PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def answers(url: str) -> bool:
    """Whether a GET of ``url`` is answered with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Server:
    """A server process, as a with-block or by its methods; it can be stopped and started again.

    Args:
        command: Its command line, which makes it listen on a port of loopback.
        health: The URL that it answers with status 200 once it serves.
        log: The file that its output is appended to.
        **options: Further arguments of `subprocess.Popen`, such as ``cwd`` and ``env``.
    """

    def __init__(self, command: Sequence[str], health: str, log: Path, **options: Any) -> None:
        self.command, self.health, self.log, self.options = list(command), health, log, options

    def start(self) -> None:
        """Start the process, in a process group of its own, without waiting for it to serve."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, **self.options
            )

    def wait(self) -> None:
        """Wait until it serves."""
        wait_until(self._serves)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process and its children, if they run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            self.process.wait()

    def __enter__(self) -> "Server":
        self.start()
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return answers(self.health)
