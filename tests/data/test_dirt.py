"""Untidy folders and zip files: every fault is one line, and no file is dropped silently.

Each kind of dirt goes through digest, download and preprocess of the source `image_folder`, and through
`metashot init`. The table "What you see" of docs/data.md says the same in words.
"""

import copy
import io
import os
import shutil
import stat
import struct
import tarfile
import tracemalloc
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image
from typer.testing import CliRunner

from metashot.cli import app
from metashot.config import params
from metashot.config.check import check as check_params
from metashot.data import store
from metashot.data.files import archive, division, folders, walk
from metashot.data.kinds import images
from metashot.data.preprocess import preprocess
from metashot.data.sources import image_folder
from metashot.errors import MetashotError
from metashot.onboard import propose

CLASSES, EACH = 6, 8
RAW = image_folder.Raw(path="images", splits="", md5="")
PREPARE = image_folder.Prepare(
    image_size=8,
    colour=True,
    rotations=False,
    repeated="refuse",
    split=division.Shares(of="samples", seed=0, val=0.25, test=0.25),
)


def noise(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def announced(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header says how large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


PNG, JPEG = encoded(noise(1000)), encoded(noise(1000), "JPEG")
MOVING = {"save_all": True, "append_images": [noise(1001), noise(1002)]}


@dataclass(frozen=True)
class Dirt:
    """A kind of dirt.

    Attributes:
        name: Its name.
        spoil: Adds it to a clean folder, or to a zip of one.
        more: Number of samples that it adds, if the pipeline does not stop.
        stops: Part of the error that stops the pipeline; empty if it does not stop.
        report: Part of the report of the stage download, if it does not stop.
        init: Part of the output of `metashot init`, by default that of the pipeline.
    """

    name: str
    spoil: Callable[[Path], object]
    more: int = 0
    stops: str = ""
    report: str = ""
    init: str = ""


def file(name: str | bytes, content: bytes = PNG) -> Callable[[Path], object]:
    """Dirt: one more file."""

    def spoil(folder: Path) -> None:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return spoil


def link(name: str, target: str, *, folder: bool = False) -> Callable[[Path], object]:
    return lambda f: (f / name).symlink_to(target, folder)


def copied(old: str, new: str) -> Callable[[Path], object]:
    """Dirt: a class folder of another name, with pictures of its own."""

    def spoil(folder: Path) -> None:
        (folder / new).mkdir()
        for number, path in enumerate(sorted((folder / old).iterdir())):
            path.unlink()
            (folder / old / path.name).write_bytes(encoded(noise(2000 + number)))
            (folder / new / path.name).write_bytes(encoded(noise(3000 + number)))

    return spoil


UNREADABLE = "not a readable picture (PNG, JPEG, BMP and WebP are)"
DIRT = [
    Dirt("a file of no bytes", file("class0/x.png", b""), stops=f"x.png' is {UNREADABLE}"),
    Dirt(
        "a truncated JPEG",
        file("class0/x.jpg", JPEG[:-60]),
        stops="x.jpg' is not a readable picture (image file is truncated",
    ),
    Dirt("a truncated PNG", file("class0/x.png", PNG[:100]), stops="x.png' is not a readable picture ("),
    Dirt("text named .png", file("class0/x.png", b"no picture"), stops=f"x.png' is {UNREADABLE}"),
    Dirt(
        "a GIF named .png",
        file("class0/x.png", encoded(noise(1), "GIF")),
        stops=f"is {UNREADABLE}",
    ),
    Dirt(
        "a header of 20,000 x 20,000",
        file("class0/x.png", announced(20_000, 20_000)),
        stops="x.png' is not a readable picture (more than 100,000,000 pixels)",
    ),
    Dirt("a CMYK JPEG", file("class0/x.jpg", encoded(noise(1000, "CMYK"), "JPEG")), 1, init="1 CMYK"),
    Dirt(
        "1x1",
        file("class0/x.png", encoded(noise(1).crop((0, 0, 1, 1)))),
        1,
        init="less than 8 pixels wide or high",
    ),
    Dirt(
        "16 bits",
        file("class0/x.png", encoded(Image.fromarray(np.full((9, 9), 7000, np.uint16)))),
        1,
        init="1 I;16",
    ),
    Dirt("a palette", file("class0/x.png", encoded(noise(1000, "P"), transparency=3)), 1, init="1 P"),
    Dirt("RGBA", file("class0/x.png", encoded(noise(1000, "RGBA"))), 1, init="1 RGBA"),
    Dirt("LA", file("class0/x.png", encoded(noise(1000, "LA"))), 1, init="1 LA"),
    Dirt("1 bit", file("class0/x.png", encoded(noise(1000, "1"))), 1, init="1 1"),
    Dirt("an animated GIF", file("class0/x.gif", encoded(noise(1000), "GIF", **MOVING)), report="1 .gif"),
    Dirt(
        "an animated WebP",
        file("class0/x.webp", encoded(noise(1000), "WEBP", **MOVING)),
        1,
        init="animated: only the first",
    ),
    Dirt("a suffix in capitals", file("class0/X.PNG"), 1, init="49"),
    Dirt("a JPEG named .png", file("class0/x.png", JPEG), 1, init="49"),
    Dirt(
        "a link out of the folder",
        link("class0/x.png", "../../elsewhere.png"),
        stops="x.png': a link that leads out",
    ),
    Dirt("a link within the folder", link("class0/x.png", "../class1/0.png"), 1, init="across classes"),
    Dirt("a link to a folder", link("linked", "class0", folder=True), stops="linked': a link to a folder"),
    Dirt("a link to the folder itself", link("class0/x", "..", folder=True), stops="x': a link to a folder"),
    Dirt("a broken link", link("class0/x.png", "nothing.png"), stops="x.png': cannot be read (No such file"),
    Dirt("a link that leads to itself", link("class0/x.png", "x.png"), stops="x.png': cannot be read ("),
    Dirt(
        "a pipe", lambda f: os.mkfifo(f / "class0/x.png"), stops="x.png': cannot be read (not a regular file)"
    ),
    Dirt(
        "class names of one look",
        lambda f: (
            (f / "class0").rename(f / unicodedata.normalize("NFC", "Ä0")),
            copied("class1", unicodedata.normalize("NFD", "Ä0"))(f),
        ),
        stops="differ in nothing but case, white space or encoding",
    ),
    Dirt(
        "class names that differ in case",
        copied("class0", "Class0"),
        stops="'Class0' and 'class0' differ in nothing",
    ),
    Dirt("a line break in a file name", file("class0/a\nb.png"), 1, init="49"),
    Dirt(
        "a line break in a class name", copied("class0", "a\nb"), stops="'a\\nb' has unprintable characters"
    ),
    Dirt("a very long name", file(f"class0/{'x' * 250}.png"), 1, init="49"),
    Dirt("a long class name", copied("class0", "y" * 255), EACH, init="56"),
    Dirt("a leading dot", file("class0/.x.png"), report="1 hidden"),
    Dirt("a hidden folder", file(".cache/x.png"), report="1 hidden"),
    Dirt("spaces and quotes", file('class0/it\'s "a" b.png'), 1, init="49"),
    Dirt("a colon", file("class0/2026-01-01 12:00:00.png"), 1, init="49"),
    Dirt("a backslash", file("class0/a\\b.png"), stops="a backslash in its name"),
    Dirt(
        "a name that is not UTF-8",
        file(b"class0/\xff.png"),
        stops="\\udcff.png': cannot be read (its name is not UTF-8",
    ),
    Dirt("an empty class", lambda f: (f / "empty").mkdir(), stops="the folder 'empty' has no sample"),
    Dirt("a class of other kinds", file("notes/a.txt", b""), stops="the folder 'notes' has no sample"),
    Dirt("a class of one picture", file("lonely/0.png"), stops="class all/lonely has 1 samples"),
    Dirt("another depth", file("deep/er/0.png"), stops="'deep/er/0.png': not at the depth of the others"),
    Dirt("a picture at the top", file("top.png"), stops="'top.png': not at the depth of the others"),
    Dirt(
        "what systems leave",
        lambda f: [
            file(name, b"")(f) for name in (".DS_Store", "class0/Thumbs.db", "__MACOSX/class0/._0.png")
        ],
        report="3 files of other kinds (3 hidden)",
    ),
    Dirt(
        "what file servers and recycle bins leave",
        lambda f: [
            file(name)(f)
            for name in (
                *("@eaDir/class0/0.png", "class1/@eaDir/0.png", "#recycle/class0/x.png", ".Trash-1000/x.png"),
                *("$RECYCLE.BIN/S-1-5/x.png", "System Volume Information/x.png", "lost+found/x.png"),
                *("class0/._0.png", "class0/desktop.ini", "class0/THUMBS.DB"),
            )
        ],
        report="10 files of other kinds (10 hidden)",
    ),
    Dirt("a JFIF", file("class0/x.jfif", JPEG), 1, init="49"),
    Dirt("a class name with a space behind it", copied("class0", "alone "), EACH, init="56"),
    Dirt(
        "class names that differ in white space",
        copied("class0", "class0 "),
        stops="'class0' and 'class0 ' differ in nothing but case, white space or encoding",
    ),
    Dirt("a class name of spaces", copied("class0", "  "), stops="a class name of white space alone"),
    Dirt(
        "several at another depth",
        lambda f: [file(f"class{c}/images/{n}.png")(f) for c in range(3) for n in range(3)],
        stops="9 files ('class0/images/0.png', 'class0/images/1.png', 'class0/images/2.png', …): not at the",
    ),
    Dirt(
        "several empty classes",
        lambda f: [(f / f"empty{number}").mkdir() for number in range(5)],
        stops="5 folders have no sample ('empty0', 'empty1', 'empty2', …)",
    ),
    Dirt(
        "several broken links",
        lambda f: [(f / f"class0/x{number}.png").symlink_to("nothing.png") for number in range(4)],
        stops="4 paths ('images/class0/x0.png', ",
        init="/images/class0/x0.png', ",
    ),
    Dirt(
        "a file of more than a gigabyte",
        lambda f: (file("class0/x.png")(f), os.truncate(f / "class0/x.png", 20 << 30)),
        stops="x.png': cannot be read (21,474,836,480 bytes, of at most 1,073,741,824)",
    ),
    Dirt(
        "documents",
        lambda f: [file(n, b"")(f) for n in ("README", "class1/a.TXT")],
        report="(1 .txt, 1 without suffix)",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean folder, in a project."""
    monkeypatch.chdir(tmp_path)
    for number in range(CLASSES * EACH):
        file(f"images/class{number // EACH}/{number % EACH}.png", encoded(noise(number)))(tmp_path)
    shutil.copy(synthetic.ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "elsewhere.png").write_bytes(PNG)
    return tmp_path / "images"


def pipeline(raw: image_folder.Raw, prepare: image_folder.Prepare = PREPARE) -> int:
    """Run `metashot refresh` and the stages download and preprocess; returns the number of samples."""
    raw = replace(raw, md5=image_folder.digest(raw, Path()))
    shutil.rmtree("raw", ignore_errors=True)
    Path("raw").mkdir()
    image_folder.download(raw, Path("raw"))
    preprocess(image_folder, prepare, Path("raw"), Path("out.parquet"))
    return sum(len(store.load(Path("out.parquet"), split).samples) for split in ("train", "val", "test"))


def check(dirt: Dirt, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check the pipeline and `metashot init` against the expected results for a kind of dirt."""
    raw = replace(RAW, path=path)
    if dirt.stops:
        with pytest.raises(MetashotError) as caught:
            pipeline(raw)
        assert dirt.stops in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        assert pipeline(raw) == CLASSES * EACH + dirt.more
        assert dirt.report in capsys.readouterr().err
    before = Path("params.yaml").read_bytes()
    done = CliRunner().invoke(app, ["init", path, "--name", "mine"], env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == (1 if dirt.stops else 0), done.output
    assert (dirt.init or dirt.report or dirt.stops) in done.output
    assert (Path("params.yaml").read_bytes() == before) == bool(dirt.stops)
    if not dirt.stops:
        check_params(Path("params.yaml"))


@pytest.mark.parametrize("dirt", DIRT, ids=lambda dirt: dirt.name)
def test_dirt_in_a_folder(dirt: Dirt, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dirt.spoil(folder)
    check(dirt, "images", capsys)


def add(*names: str, content: bytes = PNG, mode: int = 0o644) -> Callable[[Path], object]:
    """Dirt: further members of a zip."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            for name in names:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, content)

    return spoil


def wrapped(*above: str) -> Callable[[Path], object]:
    """Dirt: folders around everything."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr("/".join([*above, name]), content)

    return spoil


def encrypt(path: Path) -> None:
    """Mark the last member as encrypted, in both of its headers."""
    with zipfile.ZipFile(path) as archive:
        last = max(archive.infolist(), key=lambda info: info.header_offset)
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    content[last.header_offset + 6] |= 1
    content[content.rindex(b"PK\x01\x02", start) + 8] |= 1
    path.write_bytes(content)


def repacked(method: int) -> Callable[[Path], object]:
    """Dirt: the same members in another compression."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return spoil


def overlapping(path: Path) -> None:
    """A zip whose directory lists one large member many times."""
    add("class0/large.png", content=os.urandom(1 << 16))(path)
    with zipfile.ZipFile(path, "a") as archive:
        (large,) = (info for info in archive.infolist() if info.filename == "class0/large.png")
        for number in range(20):
            again = copy.copy(large)
            again.filename = f"class0/again{number}.png"
            archive.filelist.append(again)
        archive._didModify = True


OUT = "a name that leads out of the archive; the archive is refused"
ZIP_DIRT = [
    Dirt("nothing", lambda path: None, init="48"),
    Dirt("a member that leads out", add("class0/../../x.png"), stops=OUT),
    Dirt("an absolute member", add("/class0/x.png"), stops=OUT),
    Dirt("a member on a drive", add("C:/class0/x.png"), stops=OUT),
    Dirt(
        "a link",
        add("class0/x.png", content=b"/etc/hostname", mode=stat.S_IFLNK | 0o777),
        stops="is a symbolic link",
    ),
    Dirt("an encrypted member", encrypt, stops="cannot be read (File", init="is encrypted"),
    Dirt("a zip in a zip", add("class0/more.zip"), report="1 .zip"),
    Dirt("one name twice", add("class0/./0.png"), stops="member 'class0/0.png' occurs twice"),
    Dirt("a member that begins with a dot", add("./class0/x.png"), 1, init="49"),
    Dirt("a folder around it", wrapped("top"), init="48"),
    Dirt("two folders around it", wrapped("top", "inner"), init="48"),
    Dirt("three folders around it", wrapped("a", "b", "c"), stops="not at the depth of the others"),
    Dirt("what macOS adds", add("__MACOSX/class0/._0.png", ".DS_Store"), report="2 hidden"),
    Dirt("an empty class", add("empty/", content=b""), stops="the folder 'empty' has no sample"),
    Dirt(
        "half of it",
        lambda path: os.truncate(path, path.stat().st_size // 2),
        stops="truncated or corrupt zip",
    ),
    Dirt("an unreadable picture", add("class0/x.png", content=b"text"), stops=f"is {UNREADABLE}"),
    Dirt("bzip2", repacked(zipfile.ZIP_BZIP2), init="48"),
    Dirt("LZMA", repacked(zipfile.ZIP_LZMA), init="48"),
    Dirt("a tar file", lambda path: tarfile.open(path, "w:gz").close(), stops="not a zip file; only folders"),
    Dirt("members upon each other", overlapping, stops="members overlap; the archive is refused"),
]


@pytest.mark.parametrize("dirt", ZIP_DIRT, ids=lambda dirt: dirt.name)
def test_dirt_in_a_zip(dirt: Dirt, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder.with_name("images.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for inside in sorted(folder.rglob("*.png")):
            archive.write(inside, inside.relative_to(folder))
    dirt.spoil(path)
    check(dirt, "images.zip", capsys)


def bomb(method: int, size: int, declared: int) -> bytes:
    """A zip of clean classes and of a member of zeros that declares a size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for number in range(4):
            archive.writestr(f"class{number // 2}/{number}.png", encoded(noise(number)))
        archive.writestr(info := zipfile.ZipInfo("class0/bomb.png"), bytes(size), method)
    content = bytearray(stream.getvalue())
    for at in (info.header_offset + 22, content.rindex(b"PK\x01\x02") + 24):
        content[at : at + 4] = struct.pack("<I", declared)
    return bytes(content)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_unpacked_no_further_than_its_declared_and_allowed_size(
    method: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1 << 20)
    raw, size = replace(RAW, path="images.zip"), 1 << 24
    for declared, message in (
        (size, "more than 200 times as many (member 'class0/bomb.png' to 16,777,216)"),
        (
            100,
            "member 'class0/bomb.png' cannot be read (damaged: size or checksum differs from",
        ),
        ((1 << 20) + 1, "member 'class0/bomb.png' cannot be read (1,048,577 bytes, of at most 1,048,576)"),
    ):
        Path("images.zip").write_bytes(bomb(method, size, declared))
        monkeypatch.setattr(archive, "DENSEST", 200 if declared == size else 10**9)
        tracemalloc.start()
        with pytest.raises(MetashotError) as caught:
            image_folder.digest(raw, Path())
        assert message in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
    Path("images.zip").write_bytes(bomb(method, 1 << 20, 1 << 20))
    assert image_folder.digest(raw, Path())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["class0", "class0/0.png"])
def test_missing_read_permission_stops_the_pipeline(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    try:
        with pytest.raises(MetashotError, match=rf"{name}': cannot be read \(Permission denied\)"):
            pipeline(RAW)
        done = CliRunner().invoke(app, ["init", "images"])
        assert (done.exit_code, "Permission denied" in done.output) == (1, True)
    finally:
        (folder / name).chmod(0o755)


def test_a_reason_is_reported_once_with_a_count_and_three_cases(folder: Path) -> None:
    for number in range(12):
        file(f"class0/broken{number:02d}.png", b"")(folder)
        file(f"class1/short{number:02d}.png", PNG[: 100 + number])(folder)
    cases = "'class0/broken00.png', images: 'class0/broken01.png', images: 'class0/broken02.png', …"
    with pytest.raises(MetashotError) as caught:
        pipeline(RAW)
    assert str(caught.value).count(UNREADABLE) == 1
    assert str(caught.value).startswith("12 samples (raw/images/0000.zip: member 'all/class0/broken00.png', ")
    assert str(caught.value).endswith(": mend or remove")
    done = CliRunner().invoke(app, ["init", "images"])
    assert f"error: 12 pictures (images: {cases}): {UNREADABLE}\n" in done.stderr
    assert "error: 12 pictures (images: 'class1/short00.png', " in done.stderr
    (folder / "empty").mkdir()
    file("top.png")(folder)
    with pytest.raises(MetashotError, match=r"\(and 1 more: `metashot init` lists them\)"):
        image_folder.digest(RAW, Path())
    lines = CliRunner().invoke(app, ["init", "images"]).stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 4
    assert lines[-1] == "params.yaml was not changed: fix the data and run again"


def errors(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["init", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_tiny_imagenet_as_it_is_unzipped_is_one_line(folder: Path) -> None:
    shutil.rmtree(folder)
    for number in range(400):
        class_ = f"n{number % 20:08d}"
        file(f"train/{class_}/images/{class_}_{number}.JPEG", JPEG)(folder)
        file(f"train/{class_}/{class_}_boxes.txt")(folder)
        file(f"val/images/val_{number}.JPEG", JPEG)(folder)
        file(f"test/images/test_{number}.JPEG", JPEG)(folder)
    (line,) = folders.contents(RAW, Path(), images.SUFFIXES).mistakes
    assert "400 files ('train/n00000000/images/n00000000_0.JPEG', " in line
    assert "<superclass>/<class>/<file>, or lists of splits have to name them (--splits)" in line


def test_files_without_class_folders_are_one_line_with_the_way_out(folder: Path) -> None:
    shutil.rmtree(folder)
    for number in range(60):
        file(f"kind{number % 4}_{number}.png", encoded(noise(number)))(folder)
    (line,) = errors("images")
    assert "images: 60 files ('kind0_0.png', 'kind0_12.png', 'kind0_16.png', …): not at the depth" in line
    assert "--label '^(?P<label>[^_]+)_'" in line
    done = CliRunner().invoke(app, ["init", "images", "--label", "^(?P<label>[^_]+)_"])
    assert done.exit_code == 0, done.output
    raw = params.read(Path("params.yaml"), "data.images.raw", image_folder.Raw)
    assert (raw.label, raw.md5) == ("^(?P<label>[^_]+)_", image_folder.digest(raw, Path()))
    (line,) = errors("images", "--name", "other", "--label", "^([^_]+)_")
    assert "error: --label: " in line
    (line,) = errors("images", "--name", "other", "--label", "^(?P<label>kind[01])_")
    assert "30 files ('kind2_10.png', 'kind2_14.png', 'kind2_18.png', …): no class in the name" in line


def test_a_bright_spot_that_takes_bits_from_all_pictures_is_named(folder: Path) -> None:
    shutil.rmtree(folder)
    draw = np.random.default_rng(0)
    for class_ in range(6):
        for number in range(10):
            values = draw.integers(0, 1 << 12, (20, 20)).astype(np.uint16)
            values[0, 0] = 65535 if class_ == number == 3 else 4095
            path = folder / f"c{class_}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    done = CliRunner().invoke(app, ["init", "images", "--name", "mine"], env={"COLUMNS": "300"})
    assert (
        "warning: 1 pictures ('c3/3.png') use up to 16 bits of 16, which leaves 4 of the 12 bits"
    ) in done.output


def test_other_archives_have_to_be_unpacked(folder: Path) -> None:
    for name in ("images.tar.gz", "images.7z"):
        Path(name).write_bytes(b"no zip")
        (line,) = errors(name, "--name", "mine")
        assert line.endswith(f"{name}: compressed, but not as zip: unpack it, or pack it as zip")


def test_lists_of_splits_may_lie_in_the_folder(folder: Path) -> None:
    for at, split in enumerate(("train", "val", "test")):
        file(f"lists/{split}.txt", f"class{2 * at}\nclass{2 * at + 1}\n".encode())(folder)
    contents = folders.contents(replace(RAW, splits="images/lists"), Path(), images.SUFFIXES)
    assert (len(contents.samples), contents.mistakes, contents.unlisted) == (CLASSES * EACH, [], 0)


def test_a_class_each_with_one_picture_is_one_line(folder: Path) -> None:
    shutil.rmtree(folder)
    for number in range(30):
        file(f"class{number:02d}/0.png", encoded(noise(number)))(folder)
    lines = errors("images")
    assert len(lines) <= 3, lines


def test_the_root_of_the_file_system_is_not_walked(folder: Path) -> None:
    Path("everything").symlink_to("/")
    for path in ("/", "//", "/tmp/..", "everything"):
        (line,) = errors(path, "--name", "all")
        assert line.endswith(": the whole file system: name the folder that holds the samples")


def test_a_long_walk_reports_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walk, "REPORTED", 20)
    folders.contents(RAW, Path(), images.SUFFIXES)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" files so far, at 'images/class")[0] for line in lines] == [
        "images: 20",
        "images: 40",
    ]
    monkeypatch.setattr(walk, "MOST", 30)
    with pytest.raises(MetashotError, match="images: more than 30 files: name the folder"):
        folders.contents(RAW, Path(), images.SUFFIXES)


@pytest.mark.parametrize(
    ("image", "options", "seen"),
    [
        # Turned by its camera: what is stored left is the top
        (
            Image.fromarray(np.repeat([[[255, 0, 0], [0, 0, 255]]], 2, 0).astype(np.uint8)),
            {"exif": 6},
            "rrbb",
        ),
        (Image.fromarray(np.array([[257 * 200, 257 * 10]] * 2, np.uint16)), {}, [200, 10, 200, 10]),
        (Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 255]]] * 2, np.uint8)), {}, [255, 0, 255, 0]),
        (Image.fromarray(np.array([[[9, 0], [9, 255]]] * 2, np.uint8), "LA"), {}, [255, 9, 255, 9]),
        (Image.fromarray(np.array([[True, False]] * 2)), {}, [255, 0, 255, 0]),
        (Image.fromarray(np.array([[0, 1]] * 2, np.uint8), "P"), {"transparency": 0}, [255, 90, 255, 90]),
    ],
    ids=["EXIF", "16 bits", "RGBA", "LA", "1 bit", "palette"],
)
def test_pixels_are_those_that_a_person_sees(
    image: Image.Image, options: dict, seen: str | list[int]
) -> None:
    if image.mode == "P":
        image.putpalette([5, 5, 5, 90, 90, 90])
    if options.get("exif"):
        exif = Image.Exif()
        exif[0x0112] = options["exif"]  # orientation: turn by 90 degrees clockwise to see it
        options = {"exif": exif}
    actual = np.asarray(images.picture(encoded(image, "PNG", **options), colour=True)).reshape(-1, 3).tolist()
    if isinstance(seen, str):
        assert actual == [{"r": [255, 0, 0], "b": [0, 0, 255]}[letter] for letter in seen]
    else:
        assert actual == [[value] * 3 for value in seen]


def deep_png(pixels: np.ndarray, clear: bytes = b"") -> bytes:
    """A PNG file of 16 bits in each of 1 to 4 channels, ``[H, W, C]``; Pillow writes grey ones alone."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + (chunk(b"tRNS", clear) if clear else b"")
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("used", [8, 10, 12, 14, 16])
def test_of_16_bits_the_upper_8_of_those_that_are_used_count(used: int) -> None:
    values = (np.arange(256) << (used - 8)).astype(np.uint16).reshape(16, 16, 1)
    actual = images.picture(deep_png(values), colour=False, bits=used)
    np.testing.assert_array_equal(np.asarray(actual), np.arange(256).reshape(16, 16))
    assert images.bits_used(images.opened(deep_png(values))) == used
    # One value is clear: white paper is seen
    actual = images.picture(
        deep_png(values, struct.pack(">H", int(values[1, 2, 0]))), colour=False, bits=used
    )
    assert np.asarray(actual)[1, 2] == 255
    assert (np.asarray(actual) != np.arange(256).reshape(16, 16)).sum() == 1
    if used > 8:
        with pytest.raises(
            ValueError, match=f"a picture of {used} bits, where the data set has {used - 1}: "
        ):
            images.picture(deep_png(values), colour=False, bits=used - 1)
    for channels in (3, 4):  # Pillow reads the upper 8 of 16
        colours = np.full((16, 16, channels), 65535, np.uint16)
        colours[..., :3] = values
        actual = np.asarray(images.picture(deep_png(colours), colour=True, bits=used))
        kept = np.arange(256) >> (16 - used) << (16 - used)
        np.testing.assert_array_equal(actual, np.repeat(kept.reshape(16, 16, 1), 3, axis=2))


def test_the_bits_of_a_data_set_are_detected_and_used_for_every_picture(folder: Path) -> None:
    """Twelve bits: 4,095 is white in all pictures, in training and in requests."""
    shutil.rmtree(folder)
    values = [np.random.default_rng(n).integers(0, 4096 >> n % 3, (12, 15, 1)) for n in range(48)]
    values[0][0, 0] = 4095
    for number, pixels in enumerate(values):
        file(f"class{number // 8}/{number}.png", deep_png(pixels.astype(np.uint16)))(folder)
    done = CliRunner().invoke(app, ["init", "images"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "48 with 16, using up to 12, reduced to 8" in done.output
    prepare = params.read(Path("params.yaml"), "data.images.prepare", image_folder.Prepare)
    assert (prepare.bits, prepare.colour) == (12, False)
    assert pipeline(RAW, replace(prepare, image_size=8)) == 48
    form = replace(prepare, image_size=15).form
    for pixels in values[:6]:
        content = deep_png(pixels.astype(np.uint16))
        expected = Image.fromarray((pixels[..., 0] >> 4).astype(np.uint8)).resize((15, 15), 1)
        np.testing.assert_array_equal(images.decode(content, form)[0][0], 255 - np.asarray(expected))
        served = np.rint(255 * images.served(content, form)[0])
        # light paper is inverted, dark paper is not
        assert any(
            np.array_equal(served, shade) for shade in (np.asarray(expected), 255 - np.asarray(expected))
        )
    file("class0/bright.png", deep_png(np.full((12, 15, 1), 5000, np.uint16)))(folder)
    with pytest.raises(MetashotError, match="is a picture of 13 bits, where the data set has 12"):
        pipeline(RAW, prepare)
    assert CliRunner().invoke(app, ["init", "images"]).exit_code == 0
    assert params.read(Path("params.yaml"), "data.images.prepare", image_folder.Prepare).bits == 13


def test_a_loss_of_levels_in_colours_of_16_bits_is_reported(folder: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 4096, (12, 15, 3)).astype(np.uint16)
    file("class0/x.png", deep_png(colours))(folder)
    file("class0/y.png", deep_png(colours * 16))(folder)
    done = CliRunner().invoke(app, ["init", "images"])
    assert done.exit_code == 0, done.output
    assert "1 pictures ('class0/x.png') with 16 bits in colour: the upper 8 are read" in done.output
    raw = params.read(Path("params.yaml"), "data.images.prepare", image_folder.Prepare)
    assert raw.bits == 16


def test_a_cmyk_jpeg_looks_like_its_original() -> None:
    plain = Image.fromarray(np.tile(np.array([[[200, 60, 20]]], np.uint8), (16, 16, 1)))
    actual = np.asarray(images.picture(encoded(plain.convert("CMYK"), "JPEG", quality=95), colour=True))
    assert np.abs(actual.astype(int) - [200, 60, 20]).max() <= 6


def test_duplicates_are_counted_by_class_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(synthetic.ROOT / "params.yaml", tmp_path)
    for number in range(20 * 3):
        file(f"images/class{number // 3:02d}/{number % 3}.png", encoded(noise(number)))(tmp_path)
    clean = propose.init(Path(), RAW, "mine")
    classes = {
        split: sorted({n.partition("/")[0] for n, s in clean.splits.items() if s == split})
        for split in ("train", "test")
    }
    (one, other, *_), (tested, *_) = classes["train"], classes["test"]
    prepare = replace(PREPARE, split=clean.division)
    assert (clean.repeated, pipeline(RAW, prepare)) == ("refuse", 60)

    def twice(first: str, second: str, duplicates: str, repeated: str) -> None:
        new = Path("images", second, "again.png")
        shutil.copy(Path("images", first, "0.png"), new)
        proposal = propose.init(Path(), RAW, "mine")
        page = "\n".join([*propose.summary(proposal).values(), *propose.warnings(proposal)])
        assert (duplicates in page, proposal.repeated, proposal.mistakes) == (True, repeated, [])
        assert (repr(f"{second}/again.png") in page) == (first != second)
        if repeated == "refuse":
            assert pipeline(RAW, prepare) == 61
        else:
            with pytest.raises(MetashotError, match=r"is the same sample as .*: remove one of them"):
                pipeline(RAW, prepare)
            assert pipeline(RAW, replace(prepare, repeated="remove")) == 60
            assert store.about(Path("out.parquet"))["removed"] == 1
        new.unlink()

    twice(one, one, "1 within a class, 0 across classes, 0 of them across splits", "refuse")
    twice(one, other, "0 within a class, 1 across classes, 0 of them across splits", "refuse")
    twice(one, tested, "0 within a class, 1 across classes, 1 of them across splits", "remove")


def test_a_class_that_is_in_another_split_too_is_named_not_dropped(folder: Path) -> None:
    shares = division.Shares(of="classes", seed=0, val=0.3, test=0.3)
    splits = {path.name: division.split_of(shares, f"all/{path.name}") for path in folder.iterdir()}
    train, test = (next(n for n, s in sorted(splits.items()) if s == split) for split in ("train", "test"))
    shutil.rmtree(folder / train)
    shutil.copytree(folder / test, folder / train)
    if "val" not in splits.values():
        pytest.fail("another seed is needed")
    with pytest.raises(MetashotError, match=rf"class all/{train} has no sample in train once those"):
        pipeline(RAW, replace(PREPARE, split=shares, repeated="remove"))
