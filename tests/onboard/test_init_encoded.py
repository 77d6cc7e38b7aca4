"""`metashot init` on data beside a pretrained encoder, and on tables of vectors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onboarding import SHIPPED, described, init
from PIL import Image
from safetensors.torch import save_file

from metashot.config import check
from metashot.data import encoders
from metashot.data.sources import SOURCES

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders.forget()
    monkeypatch.delenv(encoders.VARIABLE, raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("params.yaml").write_text(SHIPPED)
    Path("dvc.yaml").write_text("stages: {}\n")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, as timm saves it."""
    import timm

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=7).state_dict(), folder / "model.safetensors")
    config = {"architecture": "resnet10t", "pretrained_cfg": {"classifier": "fc", "num_classes": 7}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def photographs(folder: Path) -> None:
    for class_ in range(20):
        (folder / f"class{class_:02d}").mkdir(parents=True)
        for number in range(6):
            pixels = RANDOM.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{class_:02d}/{number}.png")


def test_pictures_beside_an_encoder_go_through_it(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(Path("../photographs"))
    shutil.copytree(network, "../encoder")
    output = init("../photographs")
    assert "encoder resnet10t: every result will state it" in output
    assert "say in prepare.encoder_trained_on what it was trained on" in output
    section = described("photographs")
    assert section["source"] == "encoded_folder"
    assert section["raw"]["encoder"] == "../encoder"
    assert section["raw"]["encoder_md5"] == encoders.place(network)
    assert {key: section["prepare"][key] for key in ("width", "image_size", "fit")} == {
        "width": 512,
        "image_size": 96,  # 4 times 20, and up to a multiple of 32
        "fit": "crop",
    }
    check.check(Path("params.yaml"))
    module = SOURCES["encoded_folder"]
    assert module.digest(module.Raw(**section["raw"]), Path()) == section["raw"]["md5"]

    again = Path("params.yaml").read_text().replace("image_size: 96", "image_size: 64")
    Path("params.yaml").write_text(again)
    (Path("../encoder") / "extra.json").write_text("{}")
    init("../photographs")
    now = described("photographs")
    assert now["prepare"] == section["prepare"] | {"image_size": 64}
    assert now["raw"] == section["raw"] | {"encoder_md5": encoders.place(Path("../encoder"))}

    monkeypatch.setenv(encoders.VARIABLE, "none")
    init("../photographs", "--name", "plain")
    assert described("plain")["source"] == "image_folder"


def test_one_of_several_encoders_has_to_be_named(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs(Path("../photographs"))
    for name in ("one", "other"):
        shutil.copytree(network, f"../{name}")
    init("../photographs", "--name", "plain")
    assert described("plain")["source"] == "image_folder"
    monkeypatch.setenv(encoders.VARIABLE, "../other")
    init("../photographs")
    assert described("photographs")["raw"]["encoder"] == "../other"


def test_texts_beside_a_sentence_encoder_go_through_it() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = StaticEmbedding(tokenizer, embedding_weights=torch.ones(2, 24))
    SentenceTransformer(modules=[static], device="cpu").save("../words", create_model_card=False)
    lines = [f"word {row} of {row % 20},class{row % 20}" for row in range(160)]
    Path("../texts.csv").write_text("\n".join(["text,label", *lines]))
    init("../texts.csv")
    section = described("texts")
    assert (section["source"], section["raw"]["encoder"]) == ("sentence_table", "../words")
    assert section["prepare"]["width"] == 24
    check.check(Path("params.yaml"))


@pytest.mark.parametrize("layout", ["lists", "columns", "ids"])
def test_a_table_of_vectors_is_recognised(layout: str) -> None:
    numbers = RANDOM.normal(size=(160, 10)).astype(np.float32)
    columns: dict = {"label": [f"class{row % 20}" for row in range(160)]}
    if layout == "lists":
        columns["embedding"] = pa.array(numbers.tolist(), pa.list_(pa.float32()))
    else:
        columns |= {f"v{place}": numbers[:, place] for place in range(10)}
    if layout == "ids":
        columns["id"] = [f"s{row}" for row in range(160)]
    pq.write_table(pa.table(columns), "../cells.parquet")
    output = init("../cells.parquet")
    assert "state what made them in prepare.encoder_name" in output
    section = described("cells")
    assert section["source"] == "vector_table"
    assert section["prepare"]["width"] == 10
    assert section["prepare"]["vector"] == ("embedding" if layout == "lists" else "")
    check.check(Path("params.yaml"))
