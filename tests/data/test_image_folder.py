"""Image folders: what is packed, pinned, split and refused."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metashot.cli import app
from metashot.config.pin import refresh
from metashot.data import Item, Key, store
from metashot.data.files import archive, division
from metashot.data.preprocess import _FirstSamples, preprocess
from metashot.data.sources import image_folder
from metashot.errors import MetashotError

SHARES = division.Shares(of="classes", seed=0, val=0.25, test=0.25)
RAW = image_folder.Raw(path="images", splits="", md5="")
PREPARE = image_folder.Prepare(image_size=10, colour=False, rotations=False, repeated="refuse", split=SHARES)
SPLITS = ("train", "val", "test")


def write(path: Path, picture: Image.Image, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 15), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve classes of two pictures in the working directory."""
    monkeypatch.chdir(tmp_path)
    for seed in range(24):
        write(tmp_path / f"images/class{seed // 2:02d}/{seed % 2}.png", noise(seed))
    return tmp_path / "images"


def pinned(path: str = "images") -> image_folder.Raw:
    raw = replace(RAW, path=path)
    return replace(raw, md5=image_folder.digest(raw, Path()))


def packed(raw: image_folder.Raw, directory: Path) -> bytes:
    directory.mkdir(exist_ok=True)
    image_folder.download(raw, directory)
    return (directory / "images/0000.zip").read_bytes()


def test_the_digest_is_that_of_dvc_and_follows_the_pictures_only(folder: Path) -> None:
    digest = pinned().md5
    subprocess.run(["git", "init", "-q"], check=True)
    for command in (["init", "-q"], ["add", "-q", "images"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True)
    assert f"md5: {digest}\n" in Path("images.dvc").read_text()
    for name in ("README.txt", ".DS_Store", "class00/.hidden.png", "Thumbs.db"):
        (folder / name).write_text("no picture")
    assert pinned().md5 == digest
    (folder / "class00/1.png").rename(folder / "class00/2.png")
    assert pinned().md5 != digest


def test_packing_twice_gives_the_same_bytes_and_unchanged_pictures(folder: Path) -> None:
    first = packed(pinned(), Path("a"))
    copy = shutil.copytree(folder, Path("elsewhere"))  # another place, other times
    (copy / "class00/0.png").touch()
    assert packed(pinned("elsewhere"), Path("b")) == first
    with zipfile.ZipFile("a/images/0000.zip") as file:
        assert len(file.namelist()) == 24
        for name in file.namelist():
            assert file.read(name) == (folder / name.removeprefix("all/")).read_bytes()


def test_a_zip_gives_the_same_digest_and_bytes_as_its_folder(folder: Path) -> None:
    with zipfile.ZipFile("images.zip", "w") as file:
        for path in sorted(folder.rglob("*"), reverse=True):
            file.write(path, path.relative_to(folder))
        file.writestr("__MACOSX/class00/._0.png", b"junk")
    assert pinned("images.zip").md5 == pinned().md5
    assert packed(pinned("images.zip"), Path("a")) == packed(pinned(), Path("b"))


def test_other_content_than_the_pinned_is_refused_and_leaves_the_previous_files(folder: Path) -> None:
    before = packed(pinned(), Path("a"))
    raw = pinned()
    write(folder / "class00/2.png", noise(99))
    with pytest.raises(
        MetashotError, match=r"images: not the files that params.yaml pins .*metashot refresh"
    ):
        image_folder.download(raw, Path("a"))
    assert (Path("a/images/0000.zip").read_bytes(), len(list(Path("a").iterdir()))) == (before, 1)


def test_every_format_and_mode_becomes_grey_of_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grey of 100 on the left, white on the right; the store holds them inverted."""
    monkeypatch.chdir(tmp_path)
    grey = np.full((40, 60), 255, np.uint8)
    grey[:, :30] = 100
    plain = Image.fromarray(grey)
    ink = plain.point(lambda value: 255 * (value < 255))
    clear = Image.merge("LA", (plain.point(lambda value: value % 255), ink))  # black, but transparent
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    variants = {
        "grey.png": plain,
        "colour.jpg": plain.convert("RGB"),
        "COLOUR.JPEG": plain.convert("CMYK"),
        "palette.bmp": plain.convert("P"),
        "colour.webp": plain.convert("RGB"),
        "clear.png": clear,
        "deep.png": deep,
        "wrong name.png": plain,
    }
    for number in range(12):
        for name, picture in variants.items():
            marked = picture.copy()
            marked.putpixel((number, 0), 0 if picture.mode != "LA" else (0, 255))  # no class like another
            options = {"format": "JPEG"} if name == "wrong name.png" else {}
            write(tmp_path / f"images/birds/class{number}" / name, marked, **options)
    raw = pinned()
    packed(raw, tmp_path / "raw")
    preprocess(image_folder, PREPARE, tmp_path / "raw", tmp_path / "out.parquet")
    seen = 0
    for split in SPLITS:
        actual = store.load(tmp_path / "out.parquet", split)
        assert all(name.startswith("birds/class") for name in actual.class_names)
        assert actual.samples.shape[1:] == (1, 10, 10)
        assert np.abs(actual.samples[:, 0, 4:, :4].astype(int) - 155).max() <= 6
        assert actual.samples[:, 0, 4:, 6:].max() <= 6
        seen += len(actual.samples)
    assert seen == 12 * len(variants)


def test_shares_hold_on_average_and_a_class_keeps_its_split() -> None:
    names = [f"all/class{number}" for number in range(4000)]
    first = {name: division.split_of(SHARES, name) for name in names}
    counts = Counter(first.values())
    for split, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        assert abs(counts[split] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    other = replace(SHARES, seed=1)
    moved = sum(division.split_of(other, name) != first[name] for name in names) / 4000
    assert abs(moved - (1 - 0.5**2 - 2 * 0.25**2)) < 0.04  # as if drawn again
    # A larger share for the test takes from the others and gives nothing back.
    larger = replace(SHARES, test=0.3)
    assert all(division.split_of(larger, name) == "test" for name in names if first[name] == "test")


@pytest.mark.parametrize(
    ("each", "val", "test"), [(6, 0.15, 0.25), (10, 0.2, 0.3), (37, 0.15, 0.25), (60, 0.4, 0.4)]
)
def test_shares_of_samples_put_every_class_in_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, val: float, test: float
) -> None:
    """Against a draw of our own: a class's samples in the order of their digests, the test first."""
    monkeypatch.chdir(tmp_path)
    for number in range(3 * each):
        write(tmp_path / f"images/class{number // each}/{number % each}.png", noise(number))
    shares = division.Shares(of="samples", seed=7, val=val, test=test)
    packed(pinned(), Path("raw"))
    items = image_folder.items(replace(PREPARE, split=shares), Path("raw"))
    expected = {}
    for class_ in range(3):
        names = sorted(
            (f"all/class{class_}/{n}.png" for n in range(each)),
            key=lambda name: hashlib.sha256(f"7/{name}".encode()).hexdigest(),
        )
        n_test, n_val = max(2, round(test * each)), max(2, round(val * each))
        splits = ["test"] * n_test + ["val"] * n_val + ["train"] * (each - n_test - n_val)
        expected |= dict(zip(names, splits, strict=True))
    assert {f"{item.key.path}/{item.key.name}": item.key.split for item in items} == expected
    preprocess(image_folder, replace(PREPARE, split=shares), Path("raw"), Path("out.parquet"))
    assert store.about(Path("out.parquet"))["classes"] == "shared"
    for split in SPLITS:
        actual = store.load(Path("out.parquet"), split)
        assert actual.class_names == ["all/class0", "all/class1", "all/class2"]
        assert np.bincount(actual.labels).tolist() == [list(expected.values()).count(split) // 3] * 3


def test_a_class_with_too_few_samples_for_three_splits_is_named(folder: Path) -> None:
    for seed in range(2, 6):
        for number in range(12):
            write(folder / f"class{number:02d}/{seed}.png", noise(1000 * seed + number))
    (folder / "class05/3.png").unlink()
    packed(pinned(), Path("raw"))
    prepare = replace(PREPARE, split=replace(SHARES, of="samples"))
    with pytest.raises(MetashotError, match=r"^class all/class05 has 5 samples: each split needs at least 2"):
        list(image_folder.items(prepare, Path("raw")))


def test_the_first_sample_with_a_digest_is_found_and_a_full_disk_reported() -> None:
    first = _FirstSamples()
    digests = [hashlib.md5(bytes([number])).digest() for number in range(200)]
    assert first.add(digests[:3], "test") == [(0, "test"), (1, "test"), (2, "test")]
    assert first.add([digests[4], digests[1], digests[4]], "train") == [
        (3, "train"),
        (1, "test"),
        (3, "train"),
    ]
    first._table.execute("PRAGMA max_page_count = 2")
    with pytest.raises(MetashotError, match=r"cannot be written \(database or disk is full\): free space"):
        first.add(digests, "val")


@pytest.mark.parametrize("of", ["classes", "samples", "listed"])
def test_samples_come_in_order_from_whichever_zips_they_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """Against all of them sorted in memory. `all/a b` is between `all/a` and its samples, by its letters."""
    monkeypatch.setattr(archive, "ZIPPED", 7)
    above = ("train/", "val/", "test/") if of == "listed" else ("",)
    files = {
        f"{split}all/{split[:1]}{class_}/{number}.png": f"{split}{class_}{number}".encode()
        for split in above
        for class_ in ("a", "a b", "b", "c", "d-e", "d", *map(str, range(9)))
        for number in range(11)
    }
    (tmp_path / "raw").mkdir()
    archive.pack(sorted(files.items()), tmp_path / "raw/images")
    assert len(list((tmp_path / "raw/images").iterdir())) == -(-len(files) // 7)
    shares = replace(SHARES, of=of, val=0.3, test=0.3) if of != "listed" else "listed"
    packed_items = image_folder.items(replace(PREPARE, split=shares), tmp_path / "raw")
    actual = [(item.key.split, item.key.path, item.key.name, item.read()) for item in packed_items]
    assert actual == [(item.key.split, item.key.path, item.key.name, item.read()) for item in packed_items]

    items = []
    for name, content in files.items():
        *split, superclass, class_, file = name.split("/")
        items.append(Item(Key("".join(split), superclass, class_, file), partial(bytes, content), name))
    if isinstance(shares, division.Shares):
        items = division.divide(items, shares)
    assert actual == sorted((item.key.split, item.key.path, item.key.name, item.read()) for item in items)
    assert {split for split, *_ in actual} == {*SPLITS}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "raw.path: images: no such folder or zip file"),
        (lambda f: [shutil.rmtree(c) for c in f.iterdir()], "images: 0 class folders with samples"),
        (lambda f: [shutil.rmtree(c) for c in sorted(f.iterdir())[1:]], "images: 1 class folders"),
        (lambda f: write(f / "top.png", noise(0)), "images: 'top.png': not at the depth of the others"),
        (lambda f: write(f / "a/b/0.png", noise(0)), "images: 'a/b/0.png': not at the depth"),
        (lambda f: write(f / "z/b/0.png", noise(0)), "images: 'z/b/0.png': not at the depth"),
        (lambda f: (f / "linked").symlink_to(f / "class00"), "images/linked': a link to a folder"),
        (lambda f: (f / "class00/a.png").symlink_to("nothing"), "images/class00/a.png': cannot be read"),
        (lambda f: (f / "class00" / "\udcff.png").write_bytes(b""), "\\udcff.png': cannot be read"),
        (lambda f: (shutil.rmtree(f), f.write_text("no zip")), "images: not a zip file"),
    ],
)
def test_a_wrong_layout_is_one_line(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    for act in (lambda: image_folder.digest(RAW, Path()), lambda: packed(RAW, Path("a"))):
        with pytest.raises(MetashotError) as caught:
            act()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unreadable_picture_is_named(folder: Path) -> None:
    (folder / "class03/1.png").write_bytes((folder / "class03/1.png").read_bytes()[:60])
    packed(pinned(), Path("a"))
    with pytest.raises(MetashotError, match=r"member 'all/class03/1.png' is not a readable picture"):
        preprocess(image_folder, PREPARE, Path("a"), Path("out.parquet"))


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5), (float("nan"), 0.5)])
def test_shares_that_leave_a_split_empty_are_refused(val: float, test: float) -> None:
    with pytest.raises(ValueError, match=r"^val: "):
        division.Shares(of="classes", seed=0, val=val, test=test)


TEXT = """# my data
datasets: [image_folder, glyphs]  # both
data:
  glyphs: {source: glyphs, raw: {seed: 0, writers: 20}}
  image_folder:
    source: image_folder
    raw: {path: images, splits: "", md5: ""} # of Überlingen
    prepare: {image_size: 10}
"""


def test_refresh_pins_new_content_and_leaves_every_other_character(folder: Path) -> None:
    path = Path("params.yaml")
    path.write_text(TEXT)
    Path("dvc.yaml").touch()
    assert refresh(Path(), "glyphs") is None
    assert path.read_text() == TEXT
    first = pinned().md5
    assert refresh(Path(), "image_folder") is True
    assert path.read_text() == TEXT.replace('md5: ""', f'md5: "{first}"')
    assert refresh(Path(), "image_folder") is False
    write(folder / "class00/2.png", noise(99))
    done = CliRunner().invoke(app, ["refresh"])
    assert done.output.splitlines() == [
        "image_folder: new content pinned in params.yaml",
        "glyphs: pinned by code and parameters, nothing to refresh",
    ]
    assert path.read_text() == TEXT.replace('md5: ""', f'md5: "{pinned().md5}"')
    assert CliRunner().invoke(app, ["refresh"]).output.startswith("image_folder: unchanged\n")
    shutil.rmtree(folder)
    done = CliRunner().invoke(app, ["refresh"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: raw.path: images: no such folder")
