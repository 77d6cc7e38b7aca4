"""Server addresses: no proxy for this machine itself, and a check of addresses from the user."""

import os
from urllib.parse import urlsplit

from metashot.errors import MetashotError

LOOPBACK = "localhost", "127.0.0.1", "::1"


def direct() -> None:
    """Send requests to this machine directly, in this process and its child processes.

    Adds the loopback addresses to both ``NO_PROXY`` and ``no_proxy``: httpx, requests and urllib read one or
    the other.
    """
    before = [
        host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")
    ]
    hosts = "*" if "*" in before else ",".join(dict.fromkeys([*filter(None, before), *LOOPBACK]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = hosts


def check_address(variable: str, address: str) -> None:
    """Check the address of a server before a library does, whose error could show a password in it.

    Args:
        variable: Environment variable or option with the address, for messages.
        address: The address.

    Raises:
        MetashotError: It is not of the form ``http://user:password@host:port/path``.
    """
    try:
        parts = urlsplit(address)
        well_formed = bool(parts.scheme in ("http", "https") and parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as a look-up would
    except ValueError:  # a port that is not a number, unbalanced brackets, two dots in a row
        well_formed = False
    illegal = not address.isprintable() or " " in address or "\\" in address
    if not well_formed or illegal or parts.netloc.count("@") > 1:
        raise MetashotError(
            f"{variable} is not an address such as https://host:port/path: correct or unset it; in a user "
            "name or password write characters other than letters and digits as %XX"
        )
    if "@" in address.partition(parts.netloc)[2]:
        raise MetashotError(
            f"{variable} has an @ after its host: if it belongs to a password that contains / ? or #, write "
            "these as %2F %3F %23"
        )
