"""Registered models at work: called, served by MLflow over HTTP, and in a process without metashot."""

import base64
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from mlflow.entities.model_registry import ModelVersion
from PIL import Image
from serving import BLOTS, COLUMNS, GROUP, LABELS, PICTURES, TASK, ask, encoded, post, serving

from metashot.data.kinds import images
from metashot.learning.models import methods
from metashot.registry import publish


@pytest.fixture(scope="module")
def versions(registered) -> dict[str, ModelVersion]:
    """The registered version of each method."""
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    found = mlflow.MlflowClient(uri, uri).search_model_versions(f"name = '{GROUP}'")
    return {version.tags["method"]: version for version in found}


@pytest.fixture(scope="module")
def plain(versions) -> dict[str, mlflow.pyfunc.PyFuncModel]:
    """The models as a plain call has them."""
    return {method: mlflow.pyfunc.load_model(version.source) for method, version in versions.items()}


@pytest.fixture(scope="module")
def served(registered, versions, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Addresses of two servers."""
    models = {method: f"models:/{GROUP}/{versions[method].version}" for method in ("prototypical", "maml")}
    with serving(registered, models, tmp_path_factory.mktemp("served")) as addresses:
        yield addresses


@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_a_server_answers_bit_for_bit_what_a_plain_call_answers(plain, served, method):
    answer = ask(plain[method], TASK)
    assert len(answer) == 75
    assert ask(served[method], TASK) == answer


@pytest.mark.parametrize("method", synthetic.MODELS)
def test_answers_are_those_of_the_method(plain, registered, method):
    """Of a transductive one too: 300 queries are more than are otherwise answered at once."""
    queries = 4 * list(range(5, 80))
    answer = ask(plain[method], [*TASK[:5], *((PICTURES[query], None) for query in queries)])
    images = torch.from_numpy(BLOTS).float()[:, None] / 255
    numbers = torch.tensor([["abcde".index(label) for label in LABELS[:5]]])
    with torch.no_grad():
        loaded = methods.load(registered / f"models/{GROUP}/{method}")
        truth = loaded.predict(images[None, :5], numbers, images[None, queries], 5)[0].numpy()
    assert [row["label"] for row in answer] == ["abcde"[best] for best in truth.argmax(1)]
    assert len(set(map(tuple, truth))) > 5
    np.testing.assert_allclose([row["probability"] for row in answer], truth.max(1), rtol=1e-4)
    shown = [[row["probabilities"][label] for label in "abcde"] for row in answer]
    np.testing.assert_allclose(shown, truth, rtol=1e-4)


@pytest.mark.parametrize("method", synthetic.MODELS)
def test_a_support_set_of_unequal_classes_is_served_as_the_method_answers_it(plain, registered, method):
    names = "aaaaaabcde"  # six samples of the first class
    table = [*zip(PICTURES, names, strict=False), *((picture, None) for picture in PICTURES[10:])]
    images = torch.from_numpy(BLOTS).float()[None, :, None] / 255
    numbers = torch.tensor([["abcde".index(name) for name in names]])
    with torch.no_grad():
        loaded = methods.load(registered / f"models/{GROUP}/{method}")
        truth = loaded.predict(images[:, :10], numbers, images[:, 10:], 5)[0].numpy()
    answer = ask(plain[method], table)
    assert len({row["label"] for row in answer}) > 1
    shown = [[row["probabilities"][label] for label in "abcde"] for row in answer]
    np.testing.assert_allclose(shown, truth, rtol=1e-4)


def test_every_format_of_the_server_carries_a_table(plain, served):
    texts = [(base64.b64encode(image).decode(), label) for image, label in TASK]
    records = [{"image": image, "label": label} for image, label in texts]
    bodies = [
        {"dataframe_records": records},
        {"inputs": records},
        {"inputs": {"image": [image for image, _ in texts], "label": LABELS}},
        {"instances": records},
    ]
    answer = ask(plain["prototypical"], TASK)
    assert all(post(served["prototypical"], body) == answer for body in bodies)
    csv = pd.DataFrame(records).to_csv(index=False).encode()
    assert post(served["prototypical"], csv, "text/csv") == answer
    parquet = pd.DataFrame(TASK, columns=COLUMNS).to_parquet()
    assert post(served["prototypical"], parquet, "application/vnd.apache.parquet") == answer
    assert ask(plain["prototypical"], texts) == answer


def test_requests_at_the_same_time_get_each_its_own_answer(plain, served):
    tasks = [TASK[:5] + TASK[start : start + 7] for start in range(5, 75, 7)]
    for method in served:
        alone = [ask(plain[method], task) for task in tasks]
        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(lambda task, method=method: ask(served[method], task), tasks)) == alone


def test_ten_thousand_queries_are_answered_like_few_and_in_little_memory(plain, served):
    few = ask(plain["prototypical"], TASK)
    rows = TASK[:5] + 134 * TASK[5:]
    before = server_memory(served["prototypical"])
    many = ask(served["prototypical"], rows)
    assert server_memory(served["prototypical"]) - before < 700  # in one piece they take 2 GB
    assert len(many) == 10_050
    assert [row["label"] for row in many] == 134 * [row["label"] for row in few]
    wanted = 134 * [row["probability"] for row in few]
    np.testing.assert_allclose([row["probability"] for row in many], wanted, rtol=1e-5)


def server_memory(address: str) -> float:
    """The most that the processes of a server have had so far, in MB."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    pids = [line.split()[0] for line in listed.splitlines() if f"--port {address.split(':')[-1]}" in line]
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return max(int(text.split("VmHWM:")[1].split()[0]) / 1024 for text in status)


def test_a_model_that_needs_all_rows_at_once_is_not_asked_for_too_many(plain, served):
    rows = TASK[:5] + 14 * TASK[5:]
    few = ask(plain["maml"], TASK)
    assert ask(plain["maml"], rows[:1000])[0] != few[0]  # every query counts
    for face in (plain["maml"], served["maml"]):
        message = "this model needs all rows of a table at once, at most 1,000: here are 1,001"
        assert ask(face, rows[:1001]) == message
    many = [(image, LABELS[number % 5]) for number, (image, _) in enumerate(rows[:1001])]
    message = "this model needs all labelled rows at once, at most 1,000: here are 1,001"
    assert ask(plain["reptile"], [*many, TASK[5]]) == message


def header(side: int) -> bytes:
    """A PNG that claims to be ``side`` x ``side`` pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    about = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


A, B, C = PICTURES[:3]
NO_LABELS, NO_QUERIES = "no support set: no row has a label", "nothing to classify: every row has a label"
NO_IMAGE, NO_BYTES = "no column `image`", "give the bytes of a picture file, or their base64"
NO_TEXT = "row 0: label must be the name of a class, not"
NO_BASE64, NO_PICTURE = (
    "is text, but not the base64 of a picture file",
    "row 2: image is not a readable picture",
)
BAD = {
    "no rows": (COLUMNS, [], NO_LABELS),
    "no columns": ((), [], NO_IMAGE),
    "no support": (COLUMNS, [(A, None), (B, None)], NO_LABELS),
    "no query": (COLUMNS, [(A, "a"), (B, "b")], NO_QUERIES),
    "one class": (COLUMNS, [(A, "a"), (B, "a"), (C, None)], "every labelled row says 'a': few-shot classif"),
    "unknown column": ((*COLUMNS, "class"), [(A, "a", 1)], "unknown column 'class': the table has `image` "),
    "column twice": (("image", "label", "image"), [(A, "a", A)], "column `image` is there more than once"),
    "no image column": (("label",), [("a",), ("b",), (None,)], NO_IMAGE),
    "no label column": (("image",), [(A,), (B,), (C,)], "no column `label`"),
    "a number and its text": (COLUMNS, [(A, 1), (B, " 1"), (C, None)], "every labelled row says '1': few-"),
    "a list for a label": (COLUMNS, [(A, ["a"]), (B, "b"), (C, None)], f"{NO_TEXT} list"),
    "empty label": (COLUMNS, [(A, "a"), (B, " "), (C, None)], "row 1: label is empty"),
    **{
        f"image {name}": (COLUMNS, [(A, "a"), (B, "b"), (image, None)], message)
        for name, image, message in [
            ("null", None, f"row 2: image is null: {NO_BYTES}"),
            ("a number", 5, f"row 2: image is int: {NO_BYTES}"),
            ("pixels", [[0, 255], [255, 0]], f"row 2: image is list: {NO_BYTES}"),
            ("text", "a.png", f"row 2: image {NO_BASE64}"),
            ("text beyond ASCII", "é", f"row 2: image {NO_BASE64}"),
            ("empty", b"", f"{NO_PICTURE} (PNG, JPEG, BMP and WebP are)"),
            ("no picture", b"not a picture", f"{NO_PICTURE} (PNG, JPEG, BMP and WebP are)"),
            ("cut off", C[:60], f"{NO_PICTURE} ("),
            ("damaged", C[:60] + b"damage" + C[66:], f"{NO_PICTURE} ("),
            ("of another format", encoded(Image.fromarray(BLOTS[2]), "GIF"), f"{NO_PICTURE} (PNG, JPEG"),
            ("too large", header(6_000), f"{NO_PICTURE} (6000x6000 is more than 25,000,000 pixels)"),
            ("a bomb", header(20_000), f"{NO_PICTURE} (more than 25,000,000 pixels)"),
            ("without pixels", header(0), f"{NO_PICTURE} ("),
        ]
    },
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("face", ["plain", "served"])
def test_a_table_that_is_no_task_gets_one_line(request, face, bad):
    columns, rows, message = BAD[bad]
    said = ask(request.getfixturevalue(face)["prototypical"], rows, columns)
    assert said.startswith(message)
    assert "\n" not in said


@pytest.mark.parametrize("face", ["plain", "served"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["k1", "k2 ", " k1", "k2"], {"k1", "k2"}),
        (["\u00e9", "e\u0301", "k2", "k2"], {"\u00e9", "k2"}),
        ([0, 1, 0, 1], {"0", "1"}),  # which pandas makes 0.0 and 1.0 of, as one is missing
        ([False, True, False, True], {"False", "True"}),
        ([0, "0", 1.0, "1.0"], {"0", "1"}),
    ],
)
def test_labels_that_read_alike_are_one_class(request, face, labels, names):
    rows = [*zip(PICTURES, labels, strict=False), (C, None)]
    (said,) = ask(request.getfixturevalue(face)["prototypical"], rows)
    assert set(said["probabilities"]) == names


@pytest.mark.parametrize("face", ["plain", "served"])
def test_a_model_that_adapts_answers_as_many_classes_as_it_is_shown(request, face):
    (said,) = ask(request.getfixturevalue(face)["maml"], [(A, "a"), (B, "b"), (C, None)])
    assert set(said["probabilities"]) == {"a", "b"}
    assert sum(said["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "body", [{"inputs": 5}, {"inputs": {"image": ["a"], "label": ["b", "c"]}}, {"instances": "text"}]
)
def test_what_is_no_table_gets_one_line(served, body):
    said = post(served["prototypical"], body)
    assert said == "not a table: give the columns `image` and `label`, equally long"


PAPER = Image.fromarray(255 - BLOTS[0])  # dark ink on white
CLEAR = Image.merge("LA", [Image.new("L", (28, 28)), Image.fromarray(BLOTS[0])])  # dark ink on nothing
TURNED = {"save_all": True, "append_images": [PAPER.rotate(90)]}
KINDS = {
    "grey": encoded(PAPER),
    "palette": encoded(PAPER.convert("P")),
    "palette with a transparent colour": encoded(PAPER.convert("P"), transparency=7),
    "two-coloured": encoded(PAPER.convert("1")),
    "16 bits": encoded(Image.fromarray(257 * (255 - BLOTS[0]).astype(np.uint16))),
    "colour": encoded(PAPER.convert("RGB")),
    "transparent": encoded(CLEAR),
    "transparent colour": encoded(CLEAR.convert("RGBA")),
    "animated": encoded(PAPER, **TURNED),
    "JPEG": encoded(PAPER, "JPEG"),
    "CMYK": encoded(PAPER.convert("RGB").convert("CMYK"), "JPEG"),
    "WebP": encoded(PAPER, "WEBP", lossless=True),
    "BMP": encoded(PAPER, "BMP"),
    "large": encoded(PAPER.resize((300, 200))),
}


def test_pictures_of_every_kind_are_read_as_training_reads_them():
    grey, colour = images.form(28, 1), images.form(28, 3)
    for picture in KINDS.values():
        (read,) = images.served(picture, grey)
        ((wanted,), _) = images.decode(picture, grey)
        np.testing.assert_allclose(read, wanted / 255, atol=1.01 / 255)
        colours = images.served(picture, colour)
        np.testing.assert_allclose(colours, np.stack(3 * [1 - read]), atol=6.01 / 255)  # JPEG's colours


def test_pictures_of_every_kind_are_served(plain, served):
    rows = [*TASK[1:5], *((picture, None) for picture in KINDS.values())]
    answer = ask(plain["prototypical"], rows)
    assert len(answer) == len(KINDS)
    assert ask(served["prototypical"], rows) == answer


def test_dark_ink_on_light_paper_reads_as_light_ink_on_dark(plain):
    dark = [(encoded(Image.fromarray(255 - blot)), label) for blot, label in zip(BLOTS, LABELS, strict=True)]
    assert ask(plain["prototypical"], dark) == ask(plain["prototypical"], TASK)


PREDICT = """
import sys
from pathlib import Path
sys.path = [path for path in sys.path if not (Path(path) / "metashot/__init__.py").exists()]
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/glyphs-5w1s@champion")
answer = model.predict(pandas.read_parquet(sys.argv[2]))
import importlib, pkgutil
package = importlib.import_module(type(model._model_impl).__module__.partition(".")[0])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    print(importlib.import_module(module.name).__file__)
assert "metashot" not in sys.modules
answer.to_json(sys.argv[3], double_precision=15)
"""


def test_the_champion_predicts_in_a_fresh_process_without_metashot(plain, registered, tmp_path):
    pd.DataFrame(TASK, columns=COLUMNS).to_parquet(tmp_path / "task.parquet")
    uri = f"sqlite:///{registered}/mlruns/mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, "task.parquet", "answer.json"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # the code came with the model, and every module of it is complete
    assert len(lines := done.stdout.splitlines()) >= 20
    assert all(line.startswith(str(registered / "mlruns/artifacts")) for line in lines)
    answer = pd.read_json(tmp_path / "answer.json")
    wanted = ask(plain["prototypical"], TASK)
    assert answer["label"].tolist() == [row["label"] for row in wanted]
    np.testing.assert_allclose(answer["probability"], [row["probability"] for row in wanted], rtol=1e-12)


def test_the_champion_of_a_copied_repository_is_its_own(registered, plain, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(registered, copy)
    publish.publish(copy, [("glyphs", "5w1s")], list(synthetic.MODELS))
    uri = f"sqlite:///{copy}/mlruns/mlflow.db"
    source = mlflow.MlflowClient(uri, uri).get_model_version_by_alias(GROUP, "champion").source
    assert source.startswith(f"file://{copy}/")
    assert ask(mlflow.pyfunc.load_model(source), TASK) == ask(plain["prototypical"], TASK)


def test_a_version_has_a_signature_pins_and_no_pickle(plain, versions):
    assert plain["maml"].metadata.get_output_schema().input_names() == list(ask(plain["maml"], TASK)[0])
    source = Path(versions["maml"].source.removeprefix("file://"))
    files = {path.name for path in source.rglob("*") if path.is_file()}
    assert files == {
        "model.safetensors", "model.json", "code.zip", "MLmodel", "conda.yaml", "python_env.yaml",
        "requirements.txt", "registered_model_meta",
    }  # fmt: skip
    pins = (source / "requirements.txt").read_text().split()
    assert [pin.split("==")[0] for pin in pins] == [
        "mlflow", "numpy", "pandas", "pillow", "pyarrow", "safetensors", "torch", "torchvision",
    ]  # fmt: skip
    assert all("==" in pin for pin in pins)
