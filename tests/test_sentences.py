"""Frozen sentence encoders: real ones in the library's layout, made here, without a network."""

import dataclasses
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from metashot import methods, params
from metashot.backbones import Dense, DenseParams
from metashot.cli import app
from metashot.data import folders, sentence_table, sentences, store, texts
from metashot.data.preprocess import preprocess
from metashot.episodes import sample
from metashot.errors import MetashotError
from metashot.evaluation import correct_queries
from metashot.methods.base import Problem
from metashot.training import train
from tests import synthetic
from tests.project import Project

ROOT = Path(__file__).parent.parent
WORDS = [f"word{number}" for number in range(60)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
WIDTH = 24
PLAIN = {"parts": [], "text": "text", "label": "label", "groups": "", "splits": ""}


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that is the mean of the rows of a table."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = torch.randn(len(TOKENS), WIDTH, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("static")
    encoder = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=table)], device="cpu")
    encoder.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformer with random weights, and the mean over its tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(TOKENS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=32)
    encoder = SentenceTransformer(modules=[transformer, Pooling(WIDTH, "mean")], device="cpu")
    encoder.save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def prepare(folder: Path, **said) -> sentence_table.Prepare:
    whole = {
        "encoder": str(folder),
        "encoder_md5": sentences.digest(folder),
        "width": WIDTH,
        "repeated": "refuse",
        "split": folders.Shares(of="classes", seed=0, val=0.25, test=0.25),
    }
    return sentence_table.Prepare(**(whole | said))


def test_a_static_encoder_gives_the_mean_of_its_rows(static: Path) -> None:
    from safetensors.torch import load_file

    (table,) = load_file(static / "model.safetensors").values()
    vector, digest = sentences.decode(b"word3  word7 word3", prepare(static).form)
    torch.testing.assert_close(torch.from_numpy(vector), (2 * table[7] + table[11]) / 3)
    assert (
        digest
        == texts.digest("word3 word7 word3")
        == sentences.decode(b"WORD3 word7 word3", prepare(static).form)[1]
    )


def test_a_transformer_gives_what_its_layers_give_by_hand(bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(bert), AutoTokenizer.from_pretrained(bert)
    with torch.no_grad():
        tokens = tokenizer(["word1 word2 word3"], return_tensors="pt")
        wanted = model(**tokens).last_hidden_state[0].mean(0)  # no padding, so the mean over all tokens
    vector, _ = sentences.decode(b"word1 word2 word3", prepare(bert).form)
    torch.testing.assert_close(torch.from_numpy(vector), wanted, atol=1e-5, rtol=1e-5)


def test_threads_get_the_bits_that_one_caller_gets(bert: Path) -> None:
    form = prepare(bert).form
    asked = [
        " ".join(WORDS[i % 60] for i in range(start, start + 1 + start % 20)).encode() for start in range(80)
    ]
    alone = [sentences.decode(text, form)[0] for text in asked]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: sentences.decode(text, form)[0], asked))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.get_num_threads() == before


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_what_is_wrong_with_an_encoder_is_one_line(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    def said(form) -> str:
        with pytest.raises(MetashotError) as caught:
            sentences.decode(b"word1", form)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(MetashotError, match="no sentence encoder"):
        sentences.digest(tmp_path / "nowhere")
    there = prepare(static).form
    monkeypatch.setenv(sentences.ENCODER, str(tmp_path / "nowhere"))
    assert "no sentence encoder" in said(there)
    monkeypatch.delenv(sentences.ENCODER)
    unpinned = said(prepare(static, encoder_md5="").form)
    assert unpinned.endswith(
        f"(prepare.encoder_md5: none yet): restore its files, or pin it as {sentences.digest(static)}"
    )
    changed = copied(static, tmp_path / "changed")
    pinned = prepare(changed).form
    (changed / "tokenizer.json").write_text("{}")
    assert "not the encoder that is pinned" in said(pinned)
    assert "cannot be loaded" in said(prepare(changed).form)
    assert "vectors have 24 numbers: set prepare.width" in said(prepare(static, width=30).form)
    pickled = copied(bert, tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    assert "has pickled weights (pytorch_model.bin)" in said(prepare(pickled).form)
    with pytest.raises(ValueError, match="empty"):
        sentences.decode(b" \n", there)


def test_an_encoder_runs_no_code_that_it_brings(static: Path, tmp_path: Path) -> None:
    folder = copied(static, tmp_path / "foreign")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: pass\n")
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["type"] = "evil.Module"
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(MetashotError, match="cannot be loaded"):
        sentences.decode(b"word1", prepare(folder).form)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_lies_elsewhere_has_to_be_the_same(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    form = prepare(static).form
    wanted, _ = sentences.decode(b"word1", form)
    monkeypatch.setenv(sentences.ENCODER, str(copied(static, tmp_path / "moved")))
    assert np.array_equal(sentences.decode(b"word1", form)[0], wanted)
    monkeypatch.setenv(sentences.ENCODER, str(bert))
    with pytest.raises(MetashotError, match="not the encoder that is pinned"):
        sentences.decode(b"word1", form)


def test_the_dense_network_begins_as_a_rotation_and_is_normalised() -> None:
    torch.manual_seed(0)
    network, vectors = Dense((WIDTH,), WIDTH).double(), torch.randn(10, WIDTH, dtype=torch.double)
    vectors -= vectors.mean(1, keepdim=True)
    turned = network.linear(vectors)
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(vectors, vectors))
    features = network(vectors)
    torch.testing.assert_close(
        features.norm(dim=1), torch.full((10,), 4.0, dtype=torch.double), atol=1e-2, rtol=0
    )
    narrow = Dense((WIDTH,), 8).linear.weight
    torch.testing.assert_close(narrow @ narrow.mT, torch.eye(8), atol=1e-5, rtol=0)
    with pytest.raises(MetashotError, match="takes vectors"):
        Dense((1, 28, 28))


@pytest.fixture(scope="module")
def prepared(static: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of 24 classes, each with words of its own among others, as a Parquet file of vectors."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    rows = []
    for class_ in range(40):
        own = [WORDS[class_], WORDS[class_]]
        for _ in range(12):
            rows.append({"text": " ".join([*own, *random.choice(WORDS, 2)]), "label": f"class{class_:02d}"})
    pd.DataFrame(rows).drop_duplicates().to_csv(folder / "texts.csv", index=False)
    raw = {**PLAIN, "path": str(folder / "texts.csv")}
    pinned = sentence_table.digest(sentence_table.Raw(**raw, md5=""), Path())
    (folder / "raw").mkdir()
    sentence_table.download(sentence_table.Raw(**raw, md5=pinned), folder / "raw")
    preprocess(sentence_table, prepare(static), folder / "raw", folder / "data.parquet")
    return folder / "data.parquet"


def test_the_store_holds_the_vectors(prepared: Path, static: Path) -> None:
    train_ = store.load(prepared, "train")
    assert train_.form == prepare(static).form
    rows = pd.read_csv(prepared.with_name("texts.csv"))
    wanted = {tuple(sentences.decode(text.encode(), train_.form)[0]) for text in rows["text"]}
    for split in ("train", "val", "test"):
        assert {tuple(row) for row in store.load(prepared, split).tensor().numpy()} <= wanted


def test_a_wrong_encoder_stops_preprocess_once(prepared: Path, static: Path, tmp_path: Path) -> None:
    with pytest.raises(MetashotError) as caught:
        preprocess(
            sentence_table,
            prepare(static, encoder_md5="f" * 32),
            prepared.with_name("raw"),
            tmp_path / "x.parquet",
        )
    assert str(caught.value).count("not the encoder that is pinned") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["siamese", "matching", "prototypical", "maml", "reptile", "transfer"])
def test_every_method_learns_from_vectors(name: str, prepared: Path) -> None:
    cls = methods.method_class(name)
    said = params.read(ROOT / "params.yaml", f"method.{name}", dict[str, object])
    hyper = cls.params_type(**(said | ({"train_way": 5} if "train_way" in said else {})))
    splits = {split: store.load(prepared, split) for split in ("train", "val", "test")}
    torch.manual_seed(0)
    network = DenseParams(name="dense", width=16)
    method = cls(hyper, Problem(splits["train"].form, network, 5, len(splits["train"].class_names)))
    train_, val = (
        sample(
            splits[s],
            n_way=5 if s == "train" else min(5, len(splits[s].class_names)),
            k_shot=1,
            n_query=5,
            episodes=40,
            seed=0,
        )
        for s in ("train", "val")
    )
    train(
        method,
        splits["train"],
        train_,
        splits["val"],
        val,
        lr=hyper.lr,
        meta_batch=2,
        steps=60,
        seed=0,
        log=lambda *_: None,
    )
    tested = sample(splits["test"], n_way=5, k_shot=3, n_query=5, episodes=50, seed=0)
    assert correct_queries(method, splits["test"].tensor(), tested).mean() / tested.queries > 0.5


def test_a_registered_model_answers_texts_where_its_encoder_is(
    prepared: Path, static: Path, tmp_path: Path, monkeypatch
) -> None:
    """Through the real stages and MLflow; `metashot predict` answers with the code that the model carries."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path / "project")
    said = prepare(static)
    with project.params() as edited:
        section = edited["data"]["mine"] = edited["data"]["clinc150_sentences"]
        section["raw"] = {**PLAIN, "path": str(prepared.with_name("texts.csv")), "md5": ""}
        section["raw"]["md5"] = sentence_table.digest(sentence_table.Raw(**section["raw"]), Path())
        section["prepare"] = dataclasses.asdict(said)
        section["backbone"] = {"name": "dense", "width": 16}
        section["budget"] = {"prototypical": 20}
        edited["datasets"], edited["methods"] = ["mine"], ["prototypical"]
        edited["setting"]["5w1s"] |= {"train_way": 10, "n_query": 5, "extra": {}}
    project.make("mine", ["prototypical"])
    root = tmp_path / "published"
    version = synthetic.publish(project.root, root, "mine", ["prototypical"])["prototypical"]

    needed = (Path(version.source.removeprefix("file://")) / "requirements.txt").read_text().split()
    assert "sentence-transformers==6.2.0" in needed
    test = store.load(project.root / "data/processed/mine.parquet", "test").class_names[:5]
    rows = pd.read_csv(prepared.with_name("texts.csv")).groupby("label")["text"].apply(list)
    names = [name.partition("/")[2] for name in test]
    task = [(rows[name][0], name) for name in names] + [(rows[name][1], None) for name in names]
    table = pd.DataFrame(task, columns=["text", "label"])
    answers = mlflow.pyfunc.load_model(version.source).predict(table)
    direct = methods.load(project.root / "models/mine-5w1s/prototypical")
    vectors = torch.from_numpy(np.stack([sentences.decode(t.encode(), said.form)[0] for t, _ in task]))[None]
    with torch.no_grad():
        truth = direct.predict(vectors[:, :5], torch.arange(5)[None], vectors[:, 5:], 5)[0].numpy()
    shown = [[row[name] for name in names] for row in answers["probabilities"]]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)

    (tmp_path / "support.csv").write_text(table[:5].to_csv(index=False))
    (tmp_path / "asked.txt").write_text("\n".join(text for text, _ in task[5:]))
    monkeypatch.chdir(root)
    command = [
        "predict",
        "mine-5w1s",
        str(tmp_path / "asked.txt"),
        "--support",
        str(tmp_path / "support.csv"),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert [a["label"] for a in json.loads(done.stdout)] == answers["label"].tolist()
    monkeypatch.setenv(sentences.ENCODER, str(tmp_path / "nowhere"))
    lost = CliRunner().invoke(app, command)
    assert (lost.exit_code, lost.stderr.count("\n")) == (1, 1)
    assert "no sentence encoder" in lost.stderr
