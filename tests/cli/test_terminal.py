"""Text of any origin: what is told a person is one line, holds no password and does nothing to a terminal."""

import io
import itertools
import json
import random
import string
import unicodedata
from urllib.parse import quote

import pytest
from rich.table import Table
from rich.text import Text

from metashot.errors import MetashotError, line, printable, without_credentials
from metashot.terminal import Terminal, as_json

FOREIGN = "[/b]\x1b[2Ja\rb\x07\nerror: c\u202ed\x9bm\u2028\udcff:smile:"
SHOWN = r"[/b]\x1b[2Ja\rb\x07\nerror: c\u202ed\x9bm\u2028\udcff:smile:"


def test_whatever_acts_on_a_terminal_is_shown_as_python_writes_it() -> None:
    assert printable(FOREIGN) == SHOWN
    assert printable(printable(FOREIGN)) == SHOWN
    for code in range(0x110000):
        char = chr(code)
        acts = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in "\u200c\u200d"
        assert (printable(char) != char) == acts
    words = (
        "Ω 中文 \u0645\u06cc\u200c\u062e é 👩\u200d🔬"  # the invisible ones are part of how these are written
    )
    assert printable(words) == words


def test_an_error_is_one_line_whatever_text_went_into_it() -> None:
    assert str(MetashotError(FOREIGN)) == MetashotError(FOREIGN).args[0] == SHOWN
    assert str(MetashotError("at http://u:secret@host/a?key=b")) == "at http://host/a"


def test_a_console_shows_strings_as_they_are() -> None:
    view = Table(title=FOREIGN)
    view.add_column(FOREIGN, no_wrap=True)
    view.add_row(FOREIGN)
    view.add_row(Text("ours\n" + FOREIGN))
    console = Terminal(file=io.StringIO(), width=200)
    console.print(view)
    console.print(FOREIGN)
    output = console.file.getvalue()
    assert output.count(SHOWN) == 4
    assert all(char == "\n" or printable(char) == char for char in output)
    assert len({len(row) for row in output.splitlines()[1:4]}) == 1  # the frame is straight


def test_json_reads_back_from_any_encoding_and_does_nothing_to_a_terminal() -> None:
    value = {"中🦊": FOREIGN, "del": "\x7f"}
    assert json.loads(as_json(value)) == value
    assert all(char == "\n" or " " <= char <= "~" for char in as_json(value))


def addresses() -> list[tuple[str, str]]:
    """Addresses of every form with a secret of nasty characters in it, and the secret."""
    random.seed(0)
    forms = [
        "postgresql://user:{}@host:5432/db",
        "http://{}@host/path",
        "https://user:{}@[::1]:5000/a/b",
        "http://host:80/path?password={}",
        "http://host/path?a=b&token={}",
        "http://user:x@host/?sig={}",
        "https://host/#access_token={}",
        "mssql+pyodbc://host/db;PWD={}",
        "mysql+pymysql://user:{}@127.0.0.1/db?charset=utf8",
    ]
    found = []
    for form, inside in itertools.product(forms, ["", *"/@#?%:;&=+!$*,~'\"()[]", "@/", "?@", "#@", "://"]):
        secret = "".join(random.choices(string.ascii_letters, k=6)) + inside + "Zq7Yw2Kd"
        found += [
            (form.format(secret), secret),
            (form.format(quote(secret, safe="")), quote(secret, safe="")),
        ]
    return found


@pytest.mark.parametrize(
    "text", ["{}", "cannot reach {} (refused)", "Failed to parse: '{}'", "<{}>, then {}"]
)
def test_no_part_of_a_secret_is_left_of_an_address(text: str) -> None:
    for address, secret in addresses():
        left = line(text.replace("{}", address))
        assert secret[:6] not in left, address
        assert secret[-8:] not in left, address
        assert address.partition("://")[0] in left


def test_scheme_host_port_and_path_are_left_of_an_address() -> None:
    for address, left in {
        "postgresql://u:p/w@host:5432/db": "postgresql://host:5432/db",
        "http://u:p@[::1]:5000/a": "http://[::1]:5000/a",
        "http://u:p#w@host/a?b=c": "http://host/a",
        "see https://host/a.zip, then": "see https://host/a.zip, then",
        "sqlite:////home/me@work/a#1/m.db": "sqlite:////home/me@work/a#1/m.db",
        "models:/glyphs-5w1s@champion": "models:/glyphs-5w1s@champion",
        "with url: /?password=x/api/2.0 (Caused": "with url: / (Caused",
        "host=a password=x dbname=b": "host=a password=*** dbname=b",
        "secret_access_key = 'x y' (line 3)": "secret_access_key = *** (line 3)",
        "PREFECT_SERVER_API_AUTH_STRING=u:x, then": "PREFECT_SERVER_API_AUTH_STRING=***, then",
        '{"user": "u", "api_key": "x"}': '{"user": "u", "api_key": ***}',
        "cannot start any token: indent": "cannot start any token: indent",
    }.items():
        assert without_credentials(address) == left
