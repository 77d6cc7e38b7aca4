"""Encoders of pictures: timm's folders and torchvision's architectures, made here or real, offline."""

import io
import json
import shutil
import socket
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from metashot.data import Form, encoders, kinds, store
from metashot.data.encoders import pictures, timm_folder
from metashot.data.files import division
from metashot.data.kinds import encoded_images
from metashot.data.preprocess import preprocess
from metashot.data.sources import encoded_folder
from metashot.errors import MetashotError
from metashot.learning.models import methods
from metashot.learning.models.backbones.dense import DenseParams
from metashot.learning.models.methods.base import Problem
from metashot.lineage.origin import DataFacts

RANDOM = np.random.default_rng(0)
LOOK = {
    "input_size": [3, 48, 48],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
}
SHARES = division.Shares(of="samples", seed=0, val=0.25, test=0.25)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    encoders.forget()


@pytest.fixture(scope="module")
def timm_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, as timm saves it."""
    import timm

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=7)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": "resnet10t", "num_classes": 7, "num_features": 512}
    config["pretrained_cfg"] = {
        **LOOK,
        "classifier": "fc",
        "num_classes": 7,
        "first_conv": "conv1.0",
        "tag": "c3_in1k",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def torchvision_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of an architecture, in a single file."""
    from torchvision.models import get_model

    file = tmp_path_factory.mktemp("torchvision") / "squeezed.safetensors"
    torch.manual_seed(0)
    save_file(get_model("shufflenet_v2_x0_5", weights=None).state_dict(), file)
    return file


def raw_of(path: Path, encoder: Path, architecture: str = "") -> encoded_folder.Raw:
    """The section ``raw``, with both pinned."""
    raw = encoded_folder.Raw(
        path=str(path), splits="", md5="", encoder=str(encoder), encoder_md5="", architecture=architecture
    )
    pinned = {"md5": encoded_folder.digest(raw, Path()), "encoder_md5": encoders.digest(raw, Path())}
    return replace(raw, **pinned)


def prepare(width: int, **changes) -> encoded_folder.Prepare:
    return encoded_folder.Prepare(**({"width": width, "repeated": "refuse", "split": SHARES} | changes))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def drawn(width: int = 60, height: int = 40, mode: str = "RGB") -> bytes:
    channels = {"RGB": (3,), "L": ()}[mode]
    return png(Image.fromarray(RANDOM.integers(0, 256, (height, width, *channels), np.uint8)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of pictures, in a zip file."""
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as packed:
        for class_ in range(3):
            for number in range(8):
                packed.writestr(
                    f"class{class_}/{number}.png", drawn(20 + number, 30, "L" if class_ else "RGB")
                )
    return tmp_path / "pictures.zip"


def form_of(folder: Path, width: int, **changes) -> Form:
    """The form of pictures through an encoder, as if `download` had packed it."""
    encoders.place(folder)
    beside = folder.parent / f"beside-{folder.name}"
    beside.mkdir(exist_ok=True)
    if not (beside / "encoder").exists():
        (beside / "encoder").symlink_to(folder, target_is_directory=True)
    return encoded_folder.form(prepare(width, **changes), beside)


def test_a_folder_of_timm_gives_what_timm_gives(timm_small: Path) -> None:
    """Its own transform, without the crop to a share of the picture, and its own network."""
    import timm

    network = timm.create_model(f"local-dir:{timm_small}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config | {"crop_pct": 1.0}, is_training=False)
    form = form_of(timm_small, 512)
    assert form.decoding | {"md5": ""} == {
        "md5": "",
        "image_size": 48,
        "interpolation": "bilinear",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.4],
        "fit": "crop",
        "bits": 16,
    }
    content = drawn(48, 48)
    with torch.no_grad():
        expected = network(transform(Image.open(io.BytesIO(content)))[None])[0]
    vector = encoded_images.encode([encoded_images.served(content, form)], form)[0]
    torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-4, rtol=1e-4)
    assert pictures.family(timm_small).about(timm_small) == ("resnet10t.c3_in1k", "ImageNet-1k")


def test_an_architecture_of_torchvision_gives_what_comes_before_its_classifier(
    torchvision_small: Path, tmp_path: Path
) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model

    raw = replace(raw_like(torchvision_small), architecture="shufflenet_v2_x0_5")
    raw = replace(raw, encoder_md5=encoders.digest(raw, Path()))
    encoders.pack(raw, tmp_path)
    assert encoders.place(tmp_path / "encoder") == raw.encoder_md5
    form = encoded_folder.form(prepare(1024), tmp_path)
    network = get_model("shufflenet_v2_x0_5", weights=None)
    network.load_state_dict(load_file(torchvision_small))
    network.fc = torch.nn.Identity()
    transform = ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms(resize_size=224)
    content = drawn(224, 224)
    with torch.no_grad():
        expected = network.eval()(transform(Image.open(io.BytesIO(content)))[None])[0]
    vector = encoded_images.encode([encoded_images.served(content, form)], form)[0]
    torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-4, rtol=1e-4)
    assert encoded_folder.encoder_facts(prepare(1024), tmp_path)["name"] == "shufflenet_v2_x0_5"


def test_a_vector_does_not_depend_on_what_is_encoded_with_it(timm_small: Path) -> None:
    """To the bit: alone, as a request asks for it, among others, and in any order."""
    form = form_of(timm_small, 512)
    contents = [drawn() for _ in range(37)]
    samples = [encoded_images.decode(content, form)[0] for content in contents]
    alone = np.concatenate(
        [encoded_images.encode([encoded_images.served(content, form)], form) for content in contents]
    )
    before = torch.get_num_threads()
    assert np.array_equal(encoded_images.encode(samples, form), alone)
    order = RANDOM.permutation(37)
    assert np.array_equal(encoded_images.encode([samples[row] for row in order], form), alone[order])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("fit", "expected"), [("crop", (40, 40)), ("stretch", (60, 40))])
def test_pictures_are_cropped_or_stretched(timm_small: Path, fit: str, expected: tuple[int, int]) -> None:
    content = drawn(60, 40)
    form = form_of(timm_small, 512, image_size=32, fit=fit)
    image = Image.open(io.BytesIO(content))
    left, top = (60 - expected[0]) // 2, (40 - expected[1]) // 2
    middle = image.crop((left, top, left + expected[0], top + expected[1]))
    scaled = np.asarray(middle.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(encoded_images.decode(content, form)[0], scaled)


def test_preprocess_encodes_once_and_resumes(
    timm_small: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, whole = tmp_path / "raw", tmp_path / "whole.parquet"
    raw.mkdir()
    encoded_folder.download(raw_of(folder, timm_small), raw)
    chosen = prepare(512, encoder_seen="has seen none of these classes")
    preprocess(encoded_folder, chosen, raw, whole)
    known = DataFacts.read(whole)
    assert known.marked("mine") == (
        "mine (known classes, pretrained encoder: resnet10t.c3_in1k, trained on ImageNet-1k; has seen none "
        "of these classes)"
    )
    assert known.encoder and known.encoder.md5 == raw_of(folder, timm_small).encoder_md5
    by_hand = [
        encoded_images.encode([encoded_images.served(item.read(), form)], form)[0]
        for form in [store.load(whole, "train").form]
        for item in encoded_folder.items(chosen, raw)
    ]
    stored = np.concatenate([store.load(whole, split).samples for split in ("test", "train", "val")])
    assert np.array_equal(np.stack(by_hand), stored)

    encoded = []
    monkeypatch.setattr("metashot.data.preprocess.ENCODED", 4)

    def fails(samples: list, form: Form) -> np.ndarray:
        encoded.append(len(samples))
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return whole_encode(samples, form)

    whole_encode = encoded_images.encode
    monkeypatch.setattr(encoded_images, "encode", fails)
    with pytest.raises(KeyboardInterrupt):
        preprocess(encoded_folder, chosen, raw, tmp_path / "again.parquet")
    preprocess(encoded_folder, chosen, raw, tmp_path / "again.parquet")
    assert sum(encoded) == 24 + 4  # nothing twice, but what was interrupted
    again = np.concatenate(
        [store.load(tmp_path / "again.parquet", s).samples for s in ("test", "train", "val")]
    )
    assert np.array_equal(again, stored)


def refused(form: Form, size: int = 48) -> str:
    with pytest.raises(MetashotError) as caught:
        encoded_images.encode([np.zeros((3, size, size), np.uint8)], form)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mistake_in_an_encoder_is_one_line(
    timm_small: Path, torchvision_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str, **changes: object) -> Path:
        place = shutil.copytree(timm_small, tmp_path / name)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | changes))
        return place

    assert refused(form_of(timm_small, 100)).endswith("vectors have 512 numbers: set prepare.width to that")
    assert "cannot be loaded (Unknown model" in refused(
        form_of(changed("unknown", architecture="nothing"), 512)
    )
    lacking = changed("lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, lacking / "model.safetensors")
    assert "its weights lack layer1.0.conv1.weight and 0 more" in refused(form_of(lacking, 512))
    (lacking / "model.safetensors").write_bytes(b"nothing")
    assert "cannot be loaded" in refused(form_of(lacking, 512))
    odd = changed("odd", pretrained_cfg={**LOOK, "interpolation": "magic"})
    with pytest.raises(MetashotError, match="do not say what pictures it takes"):
        form_of(odd, 512)
    renamed = changed("renamed")
    (renamed / "model.safetensors").rename(renamed / "other.safetensors")
    assert "no model.safetensors" in refused(form_of(renamed, 512))
    (renamed / "other.safetensors").rename(renamed / "pytorch_model.bin")
    with pytest.raises(MetashotError, match=r"model\.bin: pickled weights are not read"):
        encoders.place(renamed)
    for architecture, line in (("nothing", "torchvision has no such one"), ("resnet18", "cannot be loaded")):
        raw = replace(raw_like(torchvision_small), architecture=architecture)
        encoders.pack(replace(raw, encoder_md5=encoders.digest(raw, Path())), tmp_path / architecture)
        with pytest.raises(MetashotError, match=line):
            form = encoded_folder.form(prepare(512, image_size=64), tmp_path / architecture)
            encoded_images.encode([np.zeros((3, 64, 64), np.uint8)], form)
    with pytest.raises(MetashotError, match="no such safetensors file"):
        encoders.digest(replace(raw, encoder=str(tmp_path / "nowhere")), Path())
    monkeypatch.setitem(sys.modules, "timm", None)
    encoders.forget()
    assert refused(form_of(timm_small, 512)).endswith("pip install 'metashot[pictures]'")


def raw_like(encoder: Path) -> encoded_folder.Raw:
    return encoded_folder.Raw(path="", splits="", md5="", encoder=str(encoder), encoder_md5="")


def test_nothing_asks_the_network(timm_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: asked.append(where))
    encoded_images.encode([np.zeros((3, 48, 48), np.uint8)], form_of(timm_small, 512))
    assert asked == []


def test_a_vector_that_is_not_finite_is_a_mistake_in_its_picture(timm_small: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(timm_small, tmp_path / "infinite")
    tensors = load_file(broken / "model.safetensors")
    tensors["layer4.0.bn2.bias"][3] = torch.inf
    save_file(tensors, broken / "model.safetensors")
    samples = [np.zeros((3, 48, 48), np.uint8)] * 2
    assert kinds.arrays(encoded_images, samples, form_of(broken, 512))[1] == [0, 1]


def test_a_registered_model_of_pictures_carries_its_encoder(
    timm_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And pins timm; its answers are those of the method itself on vectors encoded here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv(encoders.VARIABLE, raising=False)
    form = form_of(timm_small, 512)
    cls = methods.METHODS["prototypical"]
    torch.manual_seed(0)
    problem = Problem(form, DenseParams(name="dense"))
    method = cls(cls.params_type(**synthetic.PARAMS["prototypical"]), problem)
    trained = tmp_path / "trained/models/mine-5w1s/prototypical"
    trained.mkdir(parents=True)
    methods.save(method, trained)
    versions = synthetic.publish(
        tmp_path / "trained", tmp_path / "root", "mine", ["prototypical"], encoder=timm_small
    )
    folder = Path(versions["prototypical"].source.removeprefix("file://"))
    pins = (folder / "requirements.txt").read_text()
    assert {"timm", "torchvision", "pillow"} <= {pin.split("==")[0] for pin in pins.split()}
    contents = [drawn() for _ in range(5)]
    table = pd.DataFrame({"image": contents, "label": ["a", "b", None, None, None]})
    answers = mlflow.pyfunc.load_model(str(folder)).predict(table)
    vectors = encoded_images.encode([encoded_images.served(content, form) for content in contents], form)
    vectors = torch.from_numpy(vectors)[None]
    with torch.no_grad():
        truth = method.predict(vectors[:, :2], torch.arange(2)[None], vectors[:, 2:], 2)[0].numpy()
    given = [[row[name] for name in "ab"] for row in answers["probabilities"]]
    np.testing.assert_allclose(given, truth, rtol=1e-4, atol=1e-7)


def test_a_real_encoder_tells_real_pictures_apart(shared_data: Path, tmp_path: Path) -> None:
    """EfficientNet-Lite0 on five classes of CIFAR-100: the nearest mean of five is right for most others."""
    encoder = shared_data / "encoders/efficientnet_lite0"
    shutil.copytree(encoder, tmp_path / "encoder")
    form = encoded_folder.form(prepare(1280, image_size=64), tmp_path)
    assert (form.decoding["interpolation"], form.decoding["mean"]) == ("bicubic", [0.5, 0.5, 0.5])
    assert timm_folder.about(encoder) == ("tf_efficientnet_lite0", "1,000 classes that its files do not name")
    classes = ("apple", "bicycle", "castle", "tiger", "wardrobe")
    with zipfile.ZipFile(shared_data / "cifar100/cifar100_by_class.zip") as packed:
        listed = sorted(packed.namelist())
        names = [
            [n for n in listed if n.startswith(f"cifar100/test/{c}/") and n[-1] != "/"][:15] for c in classes
        ]
        contents = [packed.read(name) for row in names for name in row]
    samples = [encoded_images.served(content, form) for content in contents]
    vectors = encoded_images.encode(samples, form)
    assert np.array_equal(encoded_images.encode(samples[7:8], form), vectors[7:8])
    vectors = torch.from_numpy(vectors).view(5, 15, 1280)
    means, queries = vectors[:, :5].mean(1), vectors[:, 5:].flatten(0, 1)
    right = torch.cdist(queries, means).argmin(1) == torch.arange(5).repeat_interleave(10)
    assert right.float().mean() > 0.8
