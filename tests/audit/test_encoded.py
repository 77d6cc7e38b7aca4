"""The audit of a model that carries a pretrained encoder, and its reproduction without the folder."""

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from project import IDENTITY, Project

from metashot.audit import audit, reproduce
from metashot.data import encoders
from metashot.registry import tracking, versions

pytestmark = pytest.mark.slow

WORDS = [f"word{number}" for number in range(60)]


def static(folder: Path) -> Path:
    """An encoder that averages rows of an embedding table."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = {word: row for row, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = torch.randn(len(tokens), 24, generator=torch.Generator().manual_seed(0))
    encoder = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu")
    encoder.save(str(folder), create_model_card=False)
    return folder


def test_an_encoder_is_held_to_its_digest_and_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(encoders.VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path / "repository")
    encoder = static(tmp_path / "encoder")
    texts = [
        {"text": f"{WORDS[class_]} {WORDS[class_]} {WORDS[number]}", "label": f"class{class_:02d}"}
        for class_ in range(40)
        for number in range(24)
    ]
    pd.DataFrame(texts).drop_duplicates().to_csv(tmp_path / "texts.csv", index=False)
    with project.params() as params:
        params["datasets"], params["methods"] = ["words"], ["prototypical"]
        params["setting"]["5w1s"] |= {"train_way": 10, "extra": {}}
        params["method"]["prototypical"] |= {"train_way": 10}
        split = {"of": "classes", "seed": 0, "val": 0.3, "test": 0.3}
        clinc = params["data"]["clinc150_sentences"]
        raw = {"path": "../texts.csv", "parts": [], "groups": "", "encoder": "../encoder", "md5": ""}
        params["data"]["words"] = clinc | {
            "raw": clinc["raw"] | raw,
            "prepare": clinc["prepare"] | {"width": 24, "encoder_trained_on": "letters", "split": split},
            "budget": {"prototypical": 12},
        }
    project.run("metashot", "refresh")
    for message in ("words", "results"):
        subprocess.run(["git", *IDENTITY, "add", "--all"], cwd=project.root, check=True)
        subprocess.run(["git", *IDENTITY, "commit", "-qm", message], cwd=project.root, check=True)
        project.repro()
    project.run("metashot", "publish")
    shutil.rmtree(encoder)

    def checks() -> dict[str, str]:
        version = audit.audit(project.root, "words-5w1s/1")[0]
        assert [check.detail for check in version.checks if check.verdict == "cannot check"] == []
        return {check.name: check.detail for check in version.checks if check.verdict == "fails"}

    assert checks() == {}
    with tracking.connect(project.root) as client:
        version = versions.resolve(client, "words-5w1s/1")
        folder = Path(version.entry.source.removeprefix("file://"))
        again = reproduce.reproduce(project.root, version)
        assert again.verdict == "bit-equal"
        assert "trained on letters; may have seen classes of these data" in version.entry.description
    weights = folder / "artifacts/encoder/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "encoder/model.safetensors of the registered model is" in checks()["model"]
    weights.write_bytes(content)
    (folder / "artifacts/encoder/evil.py").write_text("evil = True")
    assert "it has a file of its own: 'artifacts/encoder/evil.py'" in checks()["model"]
    (folder / "artifacts/encoder/evil.py").unlink()
    assert checks() == {}
