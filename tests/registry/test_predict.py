"""`metashot predict`: answers about files are those of a plain call, and mistakes are one line."""

import io
import json
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from serving import BLOTS, GROUP
from typer.testing import CliRunner

from metashot.cli import render
from metashot.cli.app import app
from metashot.data.files import folders
from metashot.data.kinds import KINDS
from metashot.data.kinds.base import Use
from metashot.errors import MetashotError
from metashot.registry import carried, predict, tracking, versions
from metashot.results import plots

CLASSES = ("b", "d", "a", "c", "e")


@pytest.fixture
def task(registered, tmp_path, monkeypatch) -> Path:
    """Five classes with a picture each, and ten pictures, two of them in a folder below."""
    monkeypatch.chdir(registered)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for number, name in enumerate(CLASSES):
        (tmp_path / "support" / name).mkdir(parents=True)
        Image.fromarray(BLOTS[number]).save(tmp_path / "support" / name / "one.png")
    (tmp_path / "asked/below").mkdir(parents=True)
    for number in range(5, 15):
        folder = tmp_path / "asked" / ("below" if number > 12 else "")
        Image.fromarray(BLOTS[number]).save(folder / f"{number:02d}.PNG")
    (tmp_path / "asked/notes.txt").write_text("no picture")
    (tmp_path / "asked/._05.PNG").write_text("what a Mac leaves beside a picture")
    return tmp_path


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["predict", *arguments])


def test_answers_about_files_are_those_of_a_plain_call(task, registered):
    done = invoke(GROUP, str(task / "asked"), "--support", str(task / "support"), "--json")
    told = f"{task / 'asked'}: ignores 2 files of other kinds (1 .txt, 1 hidden)\n"
    assert (done.exit_code, done.stderr) == (0, told)
    said = json.loads(done.stdout)
    files = sorted((task / "asked").rglob("[0-9]*.PNG"))
    assert [Path(answer["sample"]) for answer in said] == files

    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    champion = mlflow.MlflowClient(uri, uri).get_model_version_by_alias(GROUP, "champion")
    images = [*(task / f"support/{name}/one.png" for name in CLASSES), *files]
    table = pd.DataFrame({"image": [f.read_bytes() for f in images], "label": [*CLASSES, *[None] * 10]})
    expected = mlflow.pyfunc.load_model(champion.source).predict(table)
    assert [answer["label"] for answer in said] == expected["label"].tolist()
    for answer, probabilities in zip(said, expected["probabilities"], strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, rel=1e-6)
        assert answer["probability"] == max(answer["probabilities"].values())
    assert len({answer["label"] for answer in said}) > 1


def test_a_table_and_a_picture_that_shows_every_answer(task):
    wanted = [str(task / "asked/05.PNG"), str(task / "asked/below")]
    picture = task / "new/answers.png"
    done = invoke(GROUP, *wanted, "--support", str(task / "support"), "--picture", str(picture))
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.replace("\n", "")
    assert all(name in lines for name in ("05.PNG", "13.PNG", "14.PNG", "sample", "probability"))
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert np.ptp(np.asarray(drawn.convert("L"))) > 200


def test_the_picture_draws_what_is_sure_first_and_says_what_it_leaves_out(task):
    pictures = KINDS["images"].USE
    support = [(s.content, label) for s, label in predict.labelled(task / "support", pictures)]
    files = [sample.content for sample in predict.unlabelled([task / "asked"], pictures)]
    answers = [(files[number % 10], "a", 1 - number / 100) for number in range(plots.ANSWERED + 3)]
    picture = plots.answers_plot(support, answers)
    assert picture == plots.answers_plot(support, answers[::-1])
    fewer = plots.answers_plot(support, answers[: plots.ANSWERED])
    sizes = [Image.open(io.BytesIO(drawn)).size for drawn in (picture, fewer)]
    assert sizes[0] == sizes[1]  # no column for those that are left out
    assert picture != fewer  # but they are told of


@pytest.mark.parametrize(
    ("model", "support", "asked", "error"),
    [
        ("glyphs-9w9s", "support", "asked", "no registered model 'glyphs-9w9s'"),
        (GROUP, "nowhere", "asked", "nowhere is not there"),
        (
            GROUP,
            "asked/below",
            "asked",
            "below: 2 files ('13.PNG', '14.PNG'): not at the depth of",
        ),
        (GROUP, "support", "gone.png", "gone.png is not there"),
        (GROUP, "support", "empty", "empty has no picture (png, jpeg, bmp, webp)"),
        (GROUP, "hollow", "asked", "hollow: the folder 'd' has no sample: fill or remove it"),
        (GROUP, "alone", "asked", "alone: 1 class folders with samples"),
        (GROUP, "mixed", "asked", "mixed: 'top.png': not at the depth of the others"),
        (GROUP, "linked", "asked", "a link that leads out of the folder"),
        (GROUP, "support", "asked/notes.txt", "asked/notes.txt is not a readable picture"),
    ],
)
def test_a_mistake_is_one_line(task, model, support, asked, error):
    (task / "empty").mkdir()
    names = ("hollow/b/1", "hollow/c/1", "alone/b/1", "mixed/a/1", "mixed/b/1", "mixed/top", "linked/a/1")
    for name in (*names, "linked/b/1"):
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(BLOTS[0]).save(task / f"{name}.png")
    (task / "hollow/d").mkdir()
    (task / "linked/a/2.png").symlink_to(task / "support/a/one.png")
    done = invoke(model, str(task / asked), "--support", str(task / support))
    lines = [line for line in done.stderr.splitlines() if "ignores" not in line]
    assert (done.exit_code, done.stdout, len(lines)) == (1, "", 1)
    assert lines[0].startswith("error: ")
    assert error in lines[0]


EVIL = "import pathlib; pathlib.Path({marker!r}).touch()\n"


def evil_zip(folder: Path, code: str) -> None:
    with zipfile.ZipFile(folder / "code.zip", "a") as archive:
        package = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{package}/pyfunc_model.py", code)  # the later one counts


def evil_package(folder: Path, code: str) -> None:
    (folder / "code").mkdir()
    (folder / "code/mlflow.py").write_text(code)


def of_an_earlier_metashot(folder: Path, code: str) -> None:
    (folder / "code/metashot").mkdir(parents=True)
    (folder / "code/metashot/__init__.py").write_text(code)
    (folder / "code.zip").unlink()
    about = (folder / "MLmodel").read_text().replace("code.zip", "code")
    (folder / "MLmodel").write_text(about)


def linked(folder: Path, _: str) -> None:
    (folder / "artifacts/model.json").rename(folder.parent / "elsewhere.json")
    (folder / "artifacts/model.json").symlink_to(folder.parent / "elsewhere.json")


def other_meta(folder: Path, _: str) -> None:
    (folder / carried.META).write_text("model_name: !!python/object/apply:os.getpid []\n")


def changed(name: str, old: str, new: str) -> Callable[[Path, str], None]:
    def change(folder: Path, _: str) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (evil_zip, "its files are not the ones that were registered"),
        (evil_package, "it has a file of its own: 'code/mlflow.py'"),
        (linked, "'artifacts/model.json' is a symbolic link, not a plain file"),
        (other_meta, "its registered_model_meta names another version"),
        (changed("MLmodel", "code.zip", "/tmp/elsewhere"), "its files are not the ones that were registered"),
        (
            changed("artifacts/model.json", '"images"', "[]"),
            "its files are not the ones that were registered",
        ),
        (lambda folder, _: (folder / "conda.yaml").unlink(), "it lacks 'conda.yaml'"),
        (lambda folder, _: shutil.rmtree(folder), "has no files at"),
        (
            of_an_earlier_metashot,
            "was registered by an earlier metashot, with its code as single files: `metashot publish`",
        ),
    ],
)
def test_no_code_of_a_model_runs_that_was_changed_since_it_was_registered(
    task, registered, tmp_path, monkeypatch, change, error
):
    root = tmp_path / "copy"
    for name in ("mlruns", "dvc.yaml", "params.yaml"):
        (shutil.copytree if (registered / name).is_dir() else shutil.copy)(registered / name, root / name)
    tracking.follow_move(root / "mlruns/mlflow.db")
    monkeypatch.chdir(root)
    with tracking.connect(root) as client:
        folder = versions.resolve(client, GROUP).folder
    change(folder, EVIL.format(marker=str(tmp_path / "ran")))
    done = invoke(GROUP, str(task / "asked"), "--support", str(task / "support"))
    lines = [line for line in done.stderr.splitlines() if "ignores" not in line]
    assert (done.exit_code, done.stdout, len(lines)) == (1, "", 1)
    assert error in lines[0]
    assert not (tmp_path / "ran").exists()


PNG, WAV = KINDS["images"].USE, KINDS["sounds"].USE


@pytest.mark.parametrize(("kind", "suffix"), [(PNG, "png"), (WAV, "wav")])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("above", ["", "birds/"])
def test_a_folder_is_seen_as_init_sees_it(
    tmp_path: Path, kind: Use, suffix: str, packed: bool, above: str, capsys
) -> None:
    """Whatever is in it; and what is answered is all that init would take for a sample."""
    put = [f"{above}{class_}/{n}.{suffix}" for class_ in ("a", "b ", "ä") for n in range(2)]
    litter = (
        ".ipynb_checkpoints/0",
        f"{above}a/.ipynb_checkpoints/0",
        "@eaDir/a/0",
        "lost+found/0",
        "__MACOSX/0",
    )
    hidden = [f"{name}.{suffix}" for name in (*litter, f"{above}a/._0")]
    for name in [*put, *hidden, f"{above}a/notes.txt"]:
        path = tmp_path / "shown" / unicodedata.normalize("NFD", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    folder = tmp_path / "shown"
    if packed:
        folder = Path(shutil.make_archive(str(folder), "zip", folder))
    raw = folders.Raw(path=str(folder), splits="", md5="")
    seen = dict(folders.samples(raw, Path(), kind.suffixes))
    told = capsys.readouterr().err
    shown = predict.labelled(folder, kind)
    assert {label for _, label in shown} == {f"{above}{class_}" for class_ in ("a", "b", "ä")}
    assert [(sample.content, label) for sample, label in shown] == [
        (read(), name.rpartition("/")[0]) for name, read in seen.items()
    ]
    assert capsys.readouterr().err == told
    asked = predict.unlabelled([folder], kind)
    assert sorted(sample.content for sample in asked) == sorted(name.encode() for name in put)
    assert capsys.readouterr().err == told


def test_flat_files_of_a_support_set_can_name_their_class(tmp_path: Path) -> None:
    for name in ("7_a_0.wav", "7_b_0.wav", "3_a_0.wav"):
        (tmp_path / name).write_bytes(name.encode())
    shown = predict.labelled(tmp_path, WAV, "^(?P<label>[0-9]+)_")
    assert [(sample.content.decode(), label) for sample, label in shown] == [
        ("3_a_0.wav", "3"),
        ("7_a_0.wav", "7"),
        ("7_b_0.wav", "7"),
    ]
    with pytest.raises(MetashotError, match=r"--label '\^\(\?P<label>"):
        predict.labelled(tmp_path, WAV)
    with pytest.raises(MetashotError, match=r"^--label: '\[' is not a regular expression"):
        predict.labelled(tmp_path, WAV, "[")


def test_names_are_no_markup_and_move_no_cursor() -> None:
    answers = [
        predict.Answer(f"{name}.png", name, 0.5, {})
        for name in ("[/b]0", "[bold]x", "\x1b[2Jgone", "a\nb", "[link=file:///x]y")
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render.answers(answers))
    text = console.export_text()
    for name in ("[/b]0", "[bold]x", "\\x1b[2Jgone", "a\\nb", "[link=file:///x]y"):
        assert text.count(name) == 2


def test_a_class_may_have_a_dollar(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray(BLOTS[0]).save(png, "PNG")
    labels = [r"$\foo$", "$x_{$"]
    support = [(png.getvalue(), label) for label in labels]
    assert plots.answers_plot(support, [(png.getvalue(), label, 0.5) for label in labels]).startswith(
        b"\x89PNG"
    )
