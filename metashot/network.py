"""Addresses: what this machine asks of itself goes through no proxy, and a malformed one is refused."""

import os
from urllib.parse import urlsplit

from metashot.errors import MetashotError

LOOPBACK = "localhost", "127.0.0.1", "::1"


def direct() -> None:
    """Have requests to this machine sent to it directly, in this process and those that it starts.

    ``NO_PROXY`` and ``no_proxy`` name it afterwards, beside what either named before: httpx, requests and
    urllib read one or the other, whichever proxy is set by whatever variable.
    """
    before = [
        host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")
    ]
    hosts = "*" if "*" in before else ",".join(dict.fromkeys([*filter(None, before), *LOOPBACK]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = hosts


def check_address(variable: str, address: str) -> None:
    """Check an address of a server before it is handed to anything, whose error could show a password in it.

    Raises:
        MetashotError: It is not of the form ``http://user:password@host:port/path``.
    """
    try:
        parts = urlsplit(address)
        well_formed = bool(parts.scheme in ("http", "https") and parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as is done before it is looked up
    except ValueError:  # no number as port, brackets that do not match, a name with two dots in a row
        well_formed = False
    strange = not address.isprintable() or " " in address or "\\" in address
    if not well_formed or strange or parts.netloc.count("@") > 1:
        raise MetashotError(
            f"{variable} is not an address such as https://host:port/path: correct or unset it; in a user "
            "name or password write characters other than letters and digits as %XX"
        )
    if "@" in address.partition(parts.netloc)[2]:
        raise MetashotError(
            f"{variable} has an @ behind its host: if it belongs to a password with / ? or # in it, write "
            "these as %2F %3F %23"
        )
