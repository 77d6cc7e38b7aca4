"""Frozen sentence encoders: real ones in the library's layout, made here, without a network."""

import dataclasses
import json
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from metashot.audit import audit
from metashot.cli.app import app
from metashot.config import params
from metashot.config.pin import refresh
from metashot.data import Form, store
from metashot.data.files import division
from metashot.data.kinds import sentences, texts
from metashot.data.preprocess import preprocess
from metashot.data.sources import sentence_table
from metashot.errors import MetashotError
from metashot.learning.evaluation import correct_queries
from metashot.learning.models import methods
from metashot.learning.models.backbones.dense import DenseParams
from metashot.learning.models.episodes import sample
from metashot.learning.models.methods.base import Problem
from metashot.learning.training import train
from metashot.registry import pyfunc_model

ROOT = Path(__file__).parents[2]
WORDS = [f"word{number}" for number in range(60)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
WIDTH = 24
PLAIN = {"parts": [], "text": "text", "label": "label", "groups": "", "splits": ""}


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that averages rows of an embedding table."""
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


def prepare(folder: Path, **changes) -> sentence_table.Prepare:
    whole = {
        "encoder": str(folder),
        "encoder_md5": "" if "encoder_md5" in changes else sentences.digest(folder),
        "width": WIDTH,
        "repeated": "refuse",
        "split": division.Shares(of="classes", seed=0, val=0.25, test=0.25),
    }
    return sentence_table.Prepare(**(whole | changes))


def test_a_static_encoder_gives_the_mean_of_its_rows(static: Path) -> None:
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
        expected = model(**tokens).last_hidden_state[0].mean(0)  # no padding, so the mean over all tokens
    vector, _ = sentences.decode(b"word1 word2 word3", prepare(bert).form)
    torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-5, rtol=1e-5)


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


def refused(form: Form) -> str:
    with pytest.raises(MetashotError) as caught:
        sentences.decode(b"word1", form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mistake_in_an_encoder_is_one_line(static: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for missing in (tmp_path / "nowhere", empty):
        assert refused(prepare(missing, encoder_md5="").form).startswith(f"{missing}: no sentence encoder")
    advice = f"or run `metashot refresh` to pin the present ones ({sentences.digest(static)})"
    unpinned = refused(prepare(static, encoder_md5="").form)
    assert "(prepare.encoder_md5: none yet)" in unpinned
    assert unpinned.endswith(advice)
    assert refused(prepare(static, width=30).form).endswith(
        "vectors have 24 numbers: set prepare.width to that"
    )
    changed = copied(static, tmp_path / "changed")
    pinned = prepare(changed).form
    (changed / "tokenizer.json").write_text("{}")
    assert "not the encoder that is pinned" in refused(pinned)
    assert "cannot be loaded" in refused(prepare(changed).form)


def test_every_file_counts_but_hidden_ones(static: Path, tmp_path: Path) -> None:
    """Files that a download keeps for itself are hidden, and contain timestamps."""
    folder = copied(static, tmp_path / "copy")
    (folder / ".cache/hub").mkdir(parents=True)
    (folder / ".cache/hub/model.metadata").write_text("1790000000")
    assert sentences.digest(folder) == sentences.digest(static)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    assert sentences.digest(folder) != sentences.digest(static)


def test_pickled_weights_are_not_read(static: Path, bert: Path, tmp_path: Path) -> None:
    for number, encoder in enumerate((static, bert)):
        expected, _ = sentences.decode(b"word1 word2", prepare(encoder).form)
        folder = copied(encoder, tmp_path / str(number))
        (folder / "pytorch_model.bin").write_bytes(b"no pickle")
        (folder / "openvino").mkdir()
        (folder / "openvino/openvino_model.bin").write_bytes(b"of no use here")
        assert np.array_equal(sentences.decode(b"word1 word2", prepare(folder).form)[0], expected)
        (folder / "model.safetensors").unlink()
        assert "pytorch_model.bin: pickled weights" in refused(prepare(folder).form)


def test_a_missing_package_is_one_line(static: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    line = refused(prepare(copied(static, tmp_path / "copy")).form)
    assert line.endswith("pip install 'metashot[sentences]'")


def test_nothing_asks_the_network(bert: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: asked.append(where))
    sentences.decode(b"word1", prepare(copied(bert, tmp_path / "copy")).form)
    assert asked == []


def test_other_types_and_infinite_vectors_are_mistakes_in_a_text(static: Path, tmp_path: Path) -> None:
    for content, line in ((b" \n", "^empty$"), (b"caf\xe9", "utf-8")):
        with pytest.raises(ValueError, match=line):
            sentences.decode(content, prepare(static).form)
    folder = copied(static, tmp_path / "infinite")
    table = load_file(folder / "model.safetensors")
    table["embedding.weight"][TOKENS.index("word7")] = torch.inf
    save_file(table, folder / "model.safetensors")
    sentences.decode(b"word6", prepare(folder).form)
    with pytest.raises(ValueError, match="a text whose vector is not finite"):
        sentences.decode(b"word6 word7", prepare(folder).form)


def test_an_encoder_runs_no_code_that_it_brings(static: Path, tmp_path: Path) -> None:
    folder = copied(static, tmp_path / "foreign")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: pass\n")
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["type"] = "evil.Module"
    (folder / "modules.json").write_text(json.dumps(listed))
    assert "cannot be loaded" in refused(prepare(folder).form)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_lies_elsewhere_has_to_be_the_same(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    form = prepare(static).form
    expected, _ = sentences.decode(b"word1", form)
    monkeypatch.setenv(sentences.ENCODER, str(copied(static, tmp_path / "moved")))
    assert np.array_equal(sentences.decode(b"word1", form)[0], expected)
    monkeypatch.setenv(sentences.ENCODER, str(bert))
    assert "not the encoder that is pinned" in refused(form)


def test_refresh_pins_the_texts_and_the_encoder(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\nword1,a\nword2,b\n")
    copied(static, tmp_path / "beside/encoder")
    section = {"source": "sentence_table", "raw": {**PLAIN, "path": "a.csv", "md5": ""}}
    section["prepare"] = dataclasses.asdict(prepare(static, encoder="beside/encoder", encoder_md5=""))
    Path("params.yaml").write_text(yaml.safe_dump({"data": {"mine": section}}))
    assert refresh(tmp_path, "mine") is True
    pinned = yaml.safe_load(Path("params.yaml").read_text())["data"]["mine"]
    assert pinned["prepare"] == section["prepare"] | {"encoder_md5": sentences.digest(static)}
    assert pinned["raw"]["md5"] == sentence_table.digest(sentence_table.Raw(**section["raw"]), tmp_path)
    assert refresh(tmp_path, "mine") is False
    shutil.rmtree("beside/encoder")
    copied(bert, tmp_path / "beside/encoder")
    assert refresh(tmp_path, "mine") is True
    now = yaml.safe_load(Path("params.yaml").read_text())["data"]["mine"]
    assert now == pinned | {"prepare": pinned["prepare"] | {"encoder_md5": sentences.digest(bert)}}


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
    expected = {tuple(sentences.decode(text.encode(), train_.form)[0]) for text in rows["text"]}
    for split in ("train", "val", "test"):
        assert {tuple(row) for row in store.load(prepared, split).tensor().numpy()} <= expected


def test_a_wrong_encoder_stops_preprocess_once(prepared: Path, static: Path, tmp_path: Path) -> None:
    wrong = prepare(static, encoder_md5="f" * 32)
    with pytest.raises(MetashotError) as caught:
        preprocess(sentence_table, wrong, prepared.with_name("raw"), tmp_path / "x.parquet")
    assert str(caught.value) == refused(wrong.form)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["siamese", "matching", "prototypical", "maml", "reptile", "transfer"])
def test_every_method_learns_from_vectors(name: str, prepared: Path) -> None:
    cls = methods.METHODS[name]
    section = params.read(ROOT / "params.yaml", f"method.{name}", dict[str, object])
    hyper = cls.params_type(**section | {"train_way": 5, "meta_batch": 2})
    splits = {split: store.load(prepared, split) for split in ("train", "val", "test")}
    torch.manual_seed(0)
    network = DenseParams(name="dense")
    method = cls(hyper, Problem(splits["train"].form, network, len(splits["train"].class_names)))
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
        steps=60,
        seed=0,
        log=lambda *_: None,
    )
    tested = sample(splits["test"], n_way=5, k_shot=3, n_query=5, episodes=50, seed=0)
    assert correct_queries(method, splits["test"].tensor(), tested).mean() / tested.queries > 0.5


@pytest.fixture(scope="module")
def published(prepared: Path, static: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A repository with a model trained on vectors, its version, and the encoder beside it."""
    beside = tmp_path_factory.mktemp("published")
    copied(static, beside / "encoder")
    form = prepare(static, encoder="../encoder").form
    cls = methods.METHODS["prototypical"]
    hyper = params.read(ROOT / "params.yaml", "method.prototypical", cls.params_type)
    torch.manual_seed(0)
    method = cls(hyper, Problem(form, DenseParams(name="dense")))
    trained = beside / "trained/models/mine-5w1s/prototypical"
    trained.mkdir(parents=True)
    methods.save(method, trained)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        versions = synthetic.publish(beside / "trained", beside / "root", "mine", ["prototypical"])
    return beside / "root", versions["prototypical"], trained


@pytest.fixture
def task(prepared: Path) -> pd.DataFrame:
    """Five classes of the test split: a support text of each, and two queries."""
    rows = pd.read_csv(prepared.with_name("texts.csv")).groupby("label")["text"].apply(list)
    names = [name.partition("/")[2] for name in store.load(prepared, "test").class_names[:5]]
    table = [(rows[name][0], name) for name in names]
    table += [(rows[name][number], None) for number in (1, 2) for name in names]
    return pd.DataFrame(table, columns=["text", "label"])


@pytest.fixture
def truth(published: tuple, static: Path, task: pd.DataFrame) -> np.ndarray:
    """Probabilities ``[10, 5]`` of the method itself."""
    form, direct = prepare(static).form, methods.load(published[2])
    vectors = torch.from_numpy(np.stack([sentences.decode(t.encode(), form)[0] for t in task["text"]]))[None]
    with torch.no_grad():
        return direct.predict(vectors[:, :5], torch.arange(5)[None], vectors[:, 5:], 5)[0].numpy()


def test_a_registered_model_answers_as_the_core_does(
    published: tuple, static: Path, task: pd.DataFrame, truth: np.ndarray, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv(sentences.ENCODER, str(static))
    model = mlflow.pyfunc.load_model(published[1].source)
    answers = model.predict(task)
    shown = [[row[name] for name in task["label"][:5]] for row in answers["probabilities"]]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)
    monkeypatch.setenv(sentences.ENCODER, str(tmp_path / "nowhere"))
    with pytest.raises(pyfunc_model.TableError.__mro__[1], match="nowhere: no sentence encoder"):
        model.predict(task)


def test_predict_takes_the_encoder_from_the_repository_and_never_from_the_model(
    published: tuple, static: Path, task: pd.DataFrame, truth: np.ndarray, tmp_path: Path, monkeypatch
) -> None:
    """From any folder of it, with the code that the model carries; the model's own path leads nowhere."""
    monkeypatch.delenv(sentences.ENCODER, raising=False)
    task[:5].to_csv(tmp_path / "support.csv", index=False)
    (tmp_path / "asked.txt").write_text("\n".join(task["text"][5:]))
    root, encoder = published[0], published[0].parent / "encoder"
    monkeypatch.chdir(root / "models")
    support = str(tmp_path / "support.csv")

    def ask() -> Result:
        asked = ["predict", "mine-5w1s", str(tmp_path / "asked.txt"), "--support", support, "--json"]
        return CliRunner().invoke(app, asked)

    done = ask()
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "params.yaml: data.mine: missing: name the encoder's folder there, or in METASHOT" in done.stderr
    written = yaml.safe_load((root / "params.yaml").read_text())
    written["data"]["mine"] = {"prepare": {"encoder": "../moved"}}
    (root / "params.yaml").write_text(yaml.safe_dump(written))
    encoder.rename(encoder.with_name("moved"))
    done = ask()
    assert (done.exit_code, done.stderr) == (0, "")
    expected = [task["label"][row] for row in truth.argmax(1)]
    assert [answer["label"] for answer in json.loads(done.stdout)] == expected


def test_a_model_asks_for_the_encoders_package_and_an_audit_knows(published: tuple, monkeypatch) -> None:
    root, version, _ = published
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pins = Path(version.source.removeprefix("file://"), "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {
        "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch",
        "sentence-transformers",
    }  # fmt: skip
    synthetic.version(root)
    synthetic.commit(root, "first")
    checks = {check.name: check.detail for check in audit.audit(root)[0].checks}
    # No commit of this repository has metashot's code
    assert checks["model"].startswith("commit cccccccccc is in no branch or tag")
