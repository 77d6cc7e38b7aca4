"""`metashot predict`: answers about files are those of a plain call, and mistakes are one line."""

import io
import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_serving import BLOTS, GROUP
from typer.testing import CliRunner

from metashot import plots, predicting
from metashot.cli import app

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
    assert (done.exit_code, done.stderr) == (0, "")
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
    support = predicting.labelled(task / "support", predicting.FILES["images"])
    files = predicting.named([task / "asked"], predicting.FILES["images"])
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
        (
            GROUP,
            "nowhere",
            "asked",
            "nowhere has no class folders: lay out the support set as <class>/<picture>",
        ),
        (GROUP, "asked/below", "asked", "below has no class folders"),
        (GROUP, "support", "gone.png", "gone.png is not there"),
        (GROUP, "support", "empty", "empty has no picture (png, jpeg, bmp, webp)"),
        (GROUP, "hollow", "asked", "hollow/d has no picture"),
        (GROUP, "alone", "asked", "every labelled row says 'b': few-shot classification needs two classes"),
        (GROUP, "support", "asked/notes.txt", "asked/notes.txt is not a readable picture"),
    ],
)
def test_a_mistake_is_one_line(task, model, support, asked, error):
    (task / "empty").mkdir()
    for name in ("hollow/b", "hollow/d", "alone/b"):
        (task / name).mkdir(parents=True)
    for name in ("hollow/b", "alone/b"):
        Image.fromarray(BLOTS[0]).save(task / name / "one.png")
    done = invoke(model, str(task / asked), "--support", str(task / support))
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert error in done.stderr
