"""Frozen sentence encoders: real ones in the library's layout, made here, without a network."""

import json
import shutil
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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

from metashot import files
from metashot.audit import audit
from metashot.cli.app import app
from metashot.config import params
from metashot.config.pin import refresh
from metashot.data import Form, encoders, kinds, store
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
from metashot.lineage.origin import DataFacts
from metashot.registry import carried, pyfunc_model

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


def prepare(**changes) -> sentence_table.Prepare:
    whole = {
        "width": WIDTH,
        "repeated": "refuse",
        "split": division.Shares(of="classes", seed=0, val=0.25, test=0.25),
    }
    return sentence_table.Prepare(**(whole | changes))


def form_of(folder: Path, **changes) -> Form:
    """The form of texts through an encoder, as if `download` had packed it."""
    return replace(prepare(**changes).form, decoding={"md5": encoders.place(folder)})


def encoded(*texts: str, form: Form) -> np.ndarray:
    return sentences.encode([sentences.decode(text.encode(), form)[0] for text in texts], form)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    encoders.forget()


def test_a_static_encoder_gives_the_mean_of_its_rows(static: Path) -> None:
    (table,) = load_file(static / "model.safetensors").values()
    (vector,) = encoded("word3  word7 word3", form=form_of(static))
    torch.testing.assert_close(torch.from_numpy(vector), (2 * table[7] + table[11]) / 3)
    digest = texts.digest("word3 word7 word3")
    for text in (b"word3  word7 word3", b"WORD3 word7 word3"):
        assert sentences.decode(text, form_of(static))[1] == digest


def test_a_transformer_gives_what_its_layers_give_by_hand(bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(bert), AutoTokenizer.from_pretrained(bert)
    with torch.no_grad():
        tokens = tokenizer(["word1 word2 word3"], return_tensors="pt")
        expected = model(**tokens).last_hidden_state[0].mean(0)  # no padding, so the mean over all tokens
    (vector,) = encoded("word1 word2 word3", form=form_of(bert))
    torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", ["static", "bert"])
def test_a_vector_does_not_depend_on_what_is_encoded_with_it(
    layout: str, request: pytest.FixtureRequest
) -> None:
    """To the bit: alone, among others, in any order, by one thread and by several callers."""
    form = form_of(request.getfixturevalue(layout))
    asked = [" ".join(WORDS[i % 60] for i in range(start, start + 1 + start % 20)) for start in range(80)]
    alone = np.concatenate([encoded(text, form=form) for text in asked])
    before = torch.get_num_threads()
    together = encoded(*asked, form=form)
    assert np.array_equal(together, alone)
    order = np.random.default_rng(0).permutation(80)
    assert np.array_equal(encoded(*[asked[row] for row in order], form=form), alone[order])
    with ThreadPoolExecutor(4) as pool:
        called = list(pool.map(lambda text: encoded(text, form=form)[0], asked))
    assert np.array_equal(called, alone)
    assert torch.get_num_threads() == before


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def refused(form: Form) -> str:
    with pytest.raises(MetashotError) as caught:
        encoded("word1", form=form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mistake_in_an_encoder_is_one_line(static: Path, tmp_path: Path, monkeypatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, line in ((tmp_path / "nowhere", "no such folder"), (empty, "not an encoder: neither")):
        with pytest.raises(MetashotError, match=f"{folder}: {line}"):
            encoders.place(folder)
    assert refused(form_of(static, width=30)).endswith("vectors have 24 numbers: set prepare.width to that")
    changed = copied(static, tmp_path / "changed")
    pinned = form_of(changed)
    encoders.forget()
    assert "is not here: the model does not carry it; name its folder in METASHOT_ENCODER" in refused(pinned)
    (changed / "tokenizer.json").write_text("{}")
    monkeypatch.setenv(encoders.VARIABLE, str(changed))
    line = refused(pinned)
    assert f"not the encoder that is pinned (raw.encoder_md5: {pinned.decoding['md5']})" in line
    assert line.endswith(f"pin the present ones ({encoders.place(changed)})")
    assert "cannot be loaded" in refused(form_of(changed))


def test_every_file_counts_but_hidden_ones_and_programs(static: Path, tmp_path: Path) -> None:
    """Files that a download keeps for itself are hidden, and contain timestamps."""
    folder = copied(static, tmp_path / "copy")
    (folder / ".cache/hub").mkdir(parents=True)
    (folder / ".cache/hub/model.metadata").write_text("1790000000")
    (folder / "modeling.py").write_text("evil = True")
    assert encoders.place(folder) == encoders.place(static)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    assert encoders.place(folder) != encoders.place(static)


def test_pickled_weights_are_not_read(static: Path, bert: Path, tmp_path: Path) -> None:
    for number, encoder in enumerate((static, bert)):
        expected = encoded("word1 word2", form=form_of(encoder))
        folder = copied(encoder, tmp_path / str(number))
        (folder / "pytorch_model.bin").write_bytes(b"no pickle")
        (folder / "openvino").mkdir()
        (folder / "openvino/openvino_model.bin").write_bytes(b"of no use here")
        assert encoders.place(folder) == encoders.place(encoder)
        encoders.forget()
        assert np.array_equal(encoded("word1 word2", form=form_of(folder)), expected)
        (folder / "model.safetensors").unlink()
        with pytest.raises(MetashotError, match=r"model\.bin: pickled weights are not read"):
            encoders.place(folder)


def test_a_missing_package_is_one_line(static: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert refused(form_of(static)).endswith("pip install 'metashot[sentences]'")


def test_nothing_asks_the_network(bert: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: asked.append(where))
    encoded("word1", form=form_of(bert))
    assert asked == []


def test_other_types_and_infinite_vectors_are_mistakes_in_a_text(static: Path, tmp_path: Path) -> None:
    for content, line in ((b" \n", "^empty$"), (b"caf\xe9", "utf-8")):
        with pytest.raises(ValueError, match=line):
            sentences.decode(content, form_of(static))
    folder = copied(static, tmp_path / "infinite")
    table = load_file(folder / "model.safetensors")
    table["embedding.weight"][TOKENS.index("word7")] = torch.inf
    save_file(table, folder / "model.safetensors")
    _, infinite = kinds.arrays(sentences, ["word6", "word6 word7", "word5"], form_of(folder))
    assert infinite == [1]


def test_an_encoder_runs_no_code_that_it_brings(static: Path, tmp_path: Path) -> None:
    folder = copied(static, tmp_path / "foreign")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: pass\n")
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["type"] = "evil.Module"
    (folder / "modules.json").write_text(json.dumps(listed))
    assert "cannot be loaded (modules.json names evil.Module" in refused(form_of(folder))
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_lies_elsewhere_has_to_be_the_same(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    form = form_of(static)
    expected = encoded("word1", form=form)
    for place, right in ((copied(static, tmp_path / "moved"), True), (bert, False)):
        encoders.forget()
        monkeypatch.setenv(encoders.VARIABLE, str(place))
        if right:
            assert np.array_equal(encoded("word1", form=form), expected)
        else:
            assert "not the encoder that is pinned" in refused(form)


def test_refresh_pins_the_texts_and_the_encoder(
    static: Path, bert: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text,label\nword1,a\nword2,b\n")
    copied(static, tmp_path / "beside/encoder")
    raw = {**PLAIN, "path": "a.csv", "md5": "", "encoder": "beside/encoder", "encoder_md5": ""}
    section = {"source": "sentence_table", "raw": raw}
    Path("params.yaml").write_text(yaml.safe_dump({"data": {"mine": section}}))
    assert refresh(tmp_path, "mine") is True
    pinned = yaml.safe_load(Path("params.yaml").read_text())["data"]["mine"]["raw"]
    assert pinned["encoder_md5"] == encoders.place(static)
    assert pinned["md5"] == sentence_table.digest(sentence_table.Raw(**raw), tmp_path)
    assert refresh(tmp_path, "mine") is False
    shutil.rmtree("beside/encoder")
    with pytest.raises(MetashotError, match="no such folder"):
        refresh(tmp_path, "mine")
    copied(bert, tmp_path / "beside/encoder")
    assert refresh(tmp_path, "mine") is True
    now = yaml.safe_load(Path("params.yaml").read_text())["data"]["mine"]["raw"]
    assert now == pinned | {"encoder_md5": encoders.place(bert)}


def raw_of(path: Path, encoder: Path, **changes) -> sentence_table.Raw:
    """The section ``raw``, with both pinned."""
    raw = sentence_table.Raw(**{**PLAIN, "path": str(path), "encoder": str(encoder)}, md5="", encoder_md5="")
    pinned = {"md5": sentence_table.digest(raw, Path()), "encoder_md5": encoders.digest(raw, Path())}
    return replace(raw, **(pinned | changes))


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
    (folder / "raw").mkdir()
    sentence_table.download(raw_of(folder / "texts.csv", static), folder / "raw")
    preprocess(sentence_table, prepare(), folder / "raw", folder / "data.parquet")
    return folder / "data.parquet"


def test_the_store_holds_the_vectors_and_what_is_known_of_the_encoder(prepared: Path, static: Path) -> None:
    train_ = store.load(prepared, "train")
    assert train_.form == form_of(static)
    rows = pd.read_csv(prepared.with_name("texts.csv"))
    expected = {tuple(vector) for vector in encoded(*rows["text"], form=train_.form)}
    for split in ("train", "val", "test"):
        assert {tuple(row) for row in store.load(prepared, split).tensor().numpy()} <= expected
    facts = {"name": "sentence encoder", "md5": encoders.place(static), "trained_on": "", "seen": ""}
    assert store.about(prepared)["encoder"] == facts
    assert DataFacts.read(prepared).marked("mine") == (
        "mine (pretrained encoder: sentence encoder, trained on data that nobody states; may have seen "
        "classes of these data)"
    )


def test_another_encoder_than_the_pinned_one_is_not_packed(
    prepared: Path, static: Path, tmp_path: Path
) -> None:
    other = raw_of(prepared.with_name("texts.csv"), static, encoder_md5="f" * 32)
    with pytest.raises(MetashotError, match="not the encoder that is pinned") as caught:
        sentence_table.download(other, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "encoder").exists()


def test_a_model_card_names_encoder_and_training_data(static: Path, tmp_path: Path) -> None:
    folder = copied(static, tmp_path / "carded")
    head = "---\nlicense: mit\ndatasets:\n- snli\n- 'eli5'\ntags:\n- x\n---\n"
    (folder / "README.md").write_text(f"{head}\n# small-encoder\n## more\n")
    assert encoders.card(folder) == {"name": "small-encoder", "datasets": "snli, eli5"}
    facts = encoders.facts(folder, prepare(encoder_seen="has seen none of these classes"), "", "")
    shown = {key: value for key, value in facts.items() if key != "md5"}
    assert shown == {
        "name": "small-encoder",
        "trained_on": "snli, eli5",
        "seen": "has seen none of these classes",
    }
    stated = encoders.facts(folder, prepare(encoder_trained_on="letters", encoder_name="mine"), "", "")
    assert (stated["name"], stated["trained_on"]) == ("mine", "letters")
    many = "".join(f"- set{number}\n" for number in range(21))
    (folder / "README.md").write_text(f"---\ndatasets:\n{many}---\n")
    assert encoders.card(folder) == {"datasets": "set0, set1, set2 and 18 more"}


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
    form = form_of(static)
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
    form, direct = form_of(static), methods.load(published[2])
    vectors = torch.from_numpy(encoded(*task["text"], form=form))[None]
    with torch.no_grad():
        return direct.predict(vectors[:, :5], torch.arange(5)[None], vectors[:, 5:], 5)[0].numpy()


def test_a_registered_model_answers_as_the_core_does(
    published: tuple, static: Path, task: pd.DataFrame, truth: np.ndarray, tmp_path: Path, monkeypatch
) -> None:
    model = mlflow.pyfunc.load_model(published[1].source)
    monkeypatch.setenv(encoders.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(pyfunc_model.TableError.__mro__[1], match="nowhere: no such folder"):
        model.predict(task)
    monkeypatch.setenv(encoders.VARIABLE, str(static))
    answers = model.predict(task)
    shown = [[row[name] for name in task["label"][:5]] for row in answers["probabilities"]]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)


def test_predict_takes_the_encoder_from_the_repository_and_never_from_the_model(
    published: tuple, static: Path, task: pd.DataFrame, truth: np.ndarray, tmp_path: Path, monkeypatch
) -> None:
    """From any folder of it, with the code that the model carries; the model's own path leads nowhere."""
    monkeypatch.delenv(encoders.VARIABLE, raising=False)
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
    written["data"]["mine"] = {"raw": {"encoder": "../moved"}}
    (root / "params.yaml").write_text(yaml.safe_dump(written))
    encoder.rename(encoder.with_name("moved"))
    done = ask()
    assert (done.exit_code, done.stderr) == (0, "")
    expected = [task["label"][row] for row in truth.argmax(1)]
    assert [answer["label"] for answer in json.loads(done.stdout)] == expected


def test_a_small_encoder_is_carried_and_a_large_one_is_not(
    published: tuple, static: Path, task: pd.DataFrame, truth: np.ndarray, tmp_path: Path, monkeypatch
) -> None:
    """So the model answers anywhere; its files are those of the pinned encoder."""
    monkeypatch.delenv(encoders.VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "root"
    trained = published[2].parents[2]
    versions = synthetic.publish(trained, root, "mine", ["prototypical"], encoder=static)
    folder = Path(versions["prototypical"].source.removeprefix("file://"))
    assert files.md5(folder / "artifacts/encoder") == encoders.place(static)
    monkeypatch.chdir(tmp_path)
    answers = mlflow.pyfunc.load_model(str(folder)).predict(task)
    shown = [[row[name] for name in task["label"][:5]] for row in answers["probabilities"]]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)
    description = versions["prototypical"].description
    assert (
        "(pretrained encoder: words, trained on letters; may have seen classes of these data)" in description
    )
    assert "**Encoder.** words, pretrained and not changed here, on letters." in description

    monkeypatch.setattr(carried, "CARRIED", 1)
    versions = synthetic.publish(trained, tmp_path / "large", "mine", ["prototypical"], encoder=static)
    large = Path(versions["prototypical"].source.removeprefix("file://"))
    assert not (large / "artifacts/encoder").exists()


def test_a_model_asks_for_the_encoders_package_and_an_audit_knows(published: tuple, monkeypatch) -> None:
    root, version, _ = published
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pins = Path(version.source.removeprefix("file://"), "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} == {
        "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "torch",
        "sentence-transformers", "transformers",
    }  # fmt: skip
    synthetic.version(root)
    synthetic.commit(root, "first")
    checks = {check.name: check.detail for check in audit.audit(root)[0].checks}
    # No commit of this repository has metashot's code
    assert checks["model"].startswith("commit cccccccccc is in no branch or tag")
