"""The documents are true: every fenced block runs, or says why not; what they name is there.

A block in sh, console or yaml is run or checked here. An HTML comment just above a block, or below the title
of a page, says otherwise: ``tested by`` names the test that runs it, ``sketch`` the reason why none does.
"""

import copy
import doctest
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from pages import BLOCKS, PAGES, Block, Page, with_part, words
from PIL import Image
from project import ROOT, Project

from metashot.audit.checks import CHECKS
from metashot.cli import app
from metashot.config import check, params
from metashot.data.sources import SOURCES
from metashot.errors import MetashotError
from metashot.learning import augmentation
from metashot.learning.models import backbones

CHECKED = ("sh", "console", "yaml")  # languages of the blocks that are run or checked here
SHELL = [block for block in BLOCKS if block.language in ("sh", "console")]
OTHERS = {"cd", "export", "git", "jq", "mkdir", "mlflow", "openssl", "pip", "prefect", "rm", "uv"}
METASHOT = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
FOLDERS = ("benchmarks", "champions", "docs", "flows", "metashot", "stages", "tests")
FILES = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    if block.tested_by:
        file, _, function = block.tested_by.partition("::")
        test = (ROOT / file).read_text()
        assert f"def {function}(" in test if function else "def test_" in test
        assert block.page in test or file == "tests/test_docs.py"
    else:
        assert block.sketch or block.language in CHECKED


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_parts_of_params_yaml_are_valid_in_their_place(page: Page, tmp_path: Path) -> None:
    whole, path = PARAMS, tmp_path / "params.yaml"
    for block in page.blocks():
        if block.language == "yaml" and not block.tested_by:
            whole = with_part(whole, block.text)
            path.write_text(yaml.safe_dump(whole))
            check.check(path)
    for span in page.spans:
        if re.fullmatch(r"\{\w+: [^.].*\}", span):
            path.write_text(f"part: {span}\n")
            params.read(path, "part", backbones.BACKBONES if "name:" in span else augmentation.Augment)


def has(section: Any, steps: list[str]) -> bool:
    """Whether a section of params.yaml has a key; a placeholder stands for any."""
    if not steps:
        return True
    if not isinstance(section, dict):
        return False
    anything = steps[0] in ("ds", "s", "m") or steps[0].startswith("<")
    return any(has(section[key], steps[1:]) for key in section if anything or key == steps[0])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_keys_of_params_yaml_are_there(page: Page) -> None:
    for span in page.spans:
        if found := re.fullmatch(r"(raw|prepare)\.(\w+)", span):
            types = [getattr(SOURCES[name], found[1].capitalize()) for name in SOURCES]
            assert found[2] in {field.name for type_ in types for field in fields(type_)}, span
        elif re.fullmatch(r"(data|setting|method|gate|cross)(\.(\w+|<[^>]+>))+", span):
            assert has(PARAMS, span.split(".")), span


def test_values_of_the_protocol_are_those_that_are_shipped() -> None:
    shipped = yaml.safe_dump(PARAMS)
    page = (ROOT / "docs/protocol.md").read_text()
    named = re.findall(r"`(\w+)` \(([\d.,]+)\)", page)
    assert len(named) > 5
    for key, value in named:
        number = re.escape(value.replace(",", ""))
        assert re.search(rf"\b{key}: {number}(\.0)?$", shipped, re.MULTILINE), (key, value)


def parse(command: list[str], whole: bool = True) -> None:
    """Fail for a command that does not exist, or an option or argument that it does not take.

    Args:
        command: Its words.
        whole: Whether all required arguments are there.
    """
    name, *arguments = command
    if name == "metashot":
        assert arguments[0] in METASHOT, command
        of_it = METASHOT[arguments[0]]
        options = {option for parameter in of_it.params for option in parameter.opts} | {"--help"}
        assert {word for word in arguments if word.startswith("--")} <= options, command
        if whole:
            of_it.make_context(arguments[0], arguments[1:])
    elif name == "make":
        assert next(word for word in arguments if "=" not in word) in TARGETS, command
    elif name == "dvc":
        try:
            get_main_parser().parse_args(arguments)
        except DvcParserError:
            assert not whole, command
            get_main_parser().parse_args([*arguments, "placeholder"])
    elif name.startswith("python"):
        assert arguments[0] == "-m", command
        assert re.sub(r"<.*", "", arguments[1]) == "stages." or importlib.util.find_spec(arguments[1]), (
            command
        )
    else:
        assert name.rpartition("/")[2] in OTHERS or name == ".", command


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_of_blocks_parse(block: Block) -> None:
    assert block.steps
    for command, _ in block.steps:
        subprocess.run(["bash", "-nc", command], check=True)
        for simple in words(command):
            parse(simple)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_in_a_line_parse(page: Page) -> None:
    for span in page.spans:
        if re.match(r"(metashot|make|dvc|python) (?!=)", span):
            (simple,) = words(span)
            parse(simple, whole=False)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page: Page) -> None:
    anchors = {other.name: other.anchors for other in PAGES}
    for link in page.links:
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (ROOT / page.name).parent / path if path else ROOT / page.name
            assert target.resolve().exists(), link
            assert not anchor or anchor in anchors[str(target.resolve().relative_to(ROOT))], link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "docs/extending.md"], ids=str)
def test_files_that_are_named_are_there(page: Page) -> None:
    for span in page.spans:
        code = re.fullmatch(r"[\w/]+\.py", span) or re.fullmatch(
            r"(metashot|stages|flows|tests)/[\w/]*", span
        )
        if code or span in ("dvc.yaml", "params.yaml", "prefect.yaml", "pyproject.toml", "requirements.lock"):
            assert any(f"/{path}".endswith(f"/{span.rstrip('/')}") for path in FILES), span


def test_a_wrong_key_is_refused_as_the_readme_shows(tmp_path: Path) -> None:
    (shown,) = (block.text for block in BLOCKS if block.text.startswith("error: "))
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("    inner_lr: 0.5", "    iner_lr: 0.5"))
    with pytest.raises(MetashotError) as refused:
        check.check(tmp_path / "params.yaml")
    message = str(refused.value).replace(f"{tmp_path}/", "")
    assert doctest.OutputChecker().check_output(shown, f"error: {message}\n", doctest.ELLIPSIS)


def test_the_layout_names_what_is_there() -> None:
    (layout,) = (block.text for block in BLOCKS if "the_layout" in block.tested_by)
    tracked = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    pipeline = {out.split("/")[0] for stage in stages().values() for out in outputs(stage)}
    named = {word for line in layout.splitlines() for word in re.split(r"\s{2,}", line)[0].split()}
    for name in named:
        assert name.rstrip("/") in tracked | pipeline or name in ("signatures/", "signers/"), name
    assert {f"{name}/" for name in pipeline} <= named
    packages = {path.name for path in (ROOT / "metashot").iterdir() if (path / "__init__.py").exists()}
    (library,) = re.findall(r"metashot/ +the library: (.*)", layout)
    assert set(library.split(", ")) == packages


def test_the_diagram_shows_the_stages() -> None:
    (diagram,) = (block.text for block in BLOCKS if "the_diagram" in block.tested_by)
    shown = diagram.splitlines()[0].split(" ─> ")
    assert [name.strip() for name in shown] == [name for name in stages() if "cross" not in name]
    table = (ROOT / "docs/architecture.md").read_text().partition("| stage | reads |")[2]
    assert re.findall(r"^\| (\w+)[@ ]", table.partition("\n\n")[0], re.MULTILINE) == [
        *(name for name in stages() if "cross" not in name),
        *(name for name in stages() if "cross" in name),
    ]


def test_the_table_of_checks_is_that_of_the_audit() -> None:
    rows = re.findall(r"^\| ([\w ]+) \|", (ROOT / "docs/lineage.md").read_text(), re.MULTILINE)
    start = rows.index("lineage")
    assert rows[start : start + len(CHECKS)] == list(CHECKS)


def test_the_table_of_packages_is_the_rule_of_imports() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = pyproject["tool"]["importlinter"]["contracts"][0]["layers"]
    packages = [set(layer.replace(".", "/").split(" | ")) for layer in layers]
    table = (
        (ROOT / "docs/architecture.md").read_text().partition("| package | holds |")[2].partition("\n\n")[0]
    )
    rows = [set(re.findall(r"`([\w/]+)(?:\.py)?`", row.split("|")[1])) for row in table.splitlines()[2:]]
    *shown, modules = rows
    assert shown == packages[: len(shown)]
    assert modules == set()  # the row of `metashot/*.py`
    assert all((ROOT / f"{name}.py").exists() for layer in packages[len(shown) :] for name in layer)


def stages() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def outputs(stage: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            yield out if isinstance(out, str) else next(iter(out))


class Reader(Project):
    """A reader's clone, with an environment, a remote to push to, and samples beside it; trainings are tiny.

    Args:
        folder: Where the clone and its neighbours go.
        drawn: A project whose pictures are drawn.
    """

    def __init__(self, folder: Path, drawn: Project) -> None:
        self.root = drawn.copy(folder / "metashot").root
        shutil.copy(ROOT / "Makefile", self.root)
        (self.root / ".venv").mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != "installed":
                (self.root / ".venv" / path.name).symlink_to(path)
        (self.root / ".venv/installed").touch()  # newer than the lock, so `make` installs nothing
        samples_beside(folder)
        self.run("git", "init", "-q", "--bare", "../origin.git")
        self.run("git", "remote", "add", "origin", "../origin.git")
        self.run("git", "add", ".")
        self.run("git", "commit", "-qm", "Makefile")
        self.run("git", "push", "-qu", "origin", "HEAD")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "reader"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "reader@localhost"),
            "PREFECT_HOME": str(self.root.parent / "prefect"),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        }

    def copied(self, folder: Path) -> "Reader":
        """A copy of the clone and its neighbours."""
        shutil.copytree(self.root.parent, folder, symlinks=True)
        other = copy.copy(self)
        other.root = folder / self.root.name
        return other

    def shrink(self) -> None:
        """Make the trainings of all data sets tiny."""
        with self.params() as params:
            for name, data in params["data"].items():
                if name != "glyphs":
                    data["budget"] = {method: 2 * (budget != 0) for method, budget in data["budget"].items()}
                    if "width" in data["backbone"]:
                        data["backbone"]["width"] = 16
            for setting in params["setting"].values():
                setting |= {"val_episodes": 5, "test_episodes": 30, "train_episodes": 20}
                for extra in setting["extra"].values():
                    extra["episodes"] = 30

    def follow(self, block: Block) -> None:
        """Run a block, each command after those before it that change the shell."""
        kept: list[str] = []
        for command, shown in block.steps:
            if re.match(r"(export|cd|\.) ", command):
                kept.append(command)
                continue
            self.shrink()
            printed = self.run("bash", "-exc", "\n".join([*kept, command])).stdout
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert not shown or doctest.OutputChecker().check_output(shown, printed, options), printed


def samples_beside(folder: Path) -> None:
    """Pictures and texts: to train on, to classify, and labelled examples for that."""
    random = np.random.default_rng(0)

    def picture(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)

    for number in range(40 * 20):
        picture(folder / f"flowers/flower{number // 20:02}/{number % 20:02}.png")
    for name in ("iris", "rose"):
        picture(folder / f"shown/{name}/0.png")
        picture(folder / f"unknown/{name}.png")

    def text(label: int) -> str:
        return " ".join(f"word{label}{word}" for word in random.integers(0, 1000, 5))

    rows = [f"{text(number // 20)},intent{number // 20}" for number in range(50 * 20)]
    (folder / "requests").mkdir()
    (folder / "requests/requests.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "examples.csv").write_text("\n".join(["text,label", *rows[::100]]))
    (folder / "questions.txt").write_text("\n".join(text(label) for label in (0, 5)))


FOLLOWED = [block for block in SHELL if not (block.sketch or block.tested_by)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, drawn: Project) -> Reader:
    """A reader who has run the pipeline, as the README begins."""
    reader = Reader(tmp_path_factory.mktemp("reader") / "beside", drawn)
    assert FOLLOWED[0].text.startswith("make run ")
    reader.follow(FOLLOWED[0])
    return reader


@pytest.mark.slow
@pytest.mark.parametrize("page", list(dict.fromkeys(block.page for block in FOLLOWED)))
def test_the_commands_of_a_page_run_in_order(page: str, reader: Reader, tmp_path: Path) -> None:
    copied = reader.copied(tmp_path / "beside")
    if page != "README.md":  # which says itself to commit
        copied.run("git", "add", "dvc.lock", "params.yaml")
        copied.run("git", "commit", "-qm", "First run")
        copied.run("metashot", "publish")
    for block in FOLLOWED:
        if block.page == page:
            copied.follow(block)
