"""Sources, archives, preprocessing and the store."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from metashot.data import About, Form, Key, store
from metashot.data.files import archive
from metashot.data.kinds import images
from metashot.data.preprocess import preprocess
from metashot.data.sources import SOURCES, glyphs, omniglot
from metashot.errors import MetashotError

GLYPHS = glyphs.Prepare(image_size=28, rotations=False)
OMNIGLOT = omniglot.Prepare(split="vinyals", image_size=28, rotations=True)
ABOUT = {"source": "made up", "licence": "none", "citation": "", "synthetic": True}
ARCHIVES = ("images_background.zip", "images_evaluation.zip")
SPLITS: tuple[Any, ...] = ("train", "val", "test")


def png(seed: int, size: int = 20) -> bytes:
    """Noise in black and white."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).random((size, size)) < 0.5).save(stream, "PNG")
    return stream.getvalue()


def pictures_of(splits: tuple[str, ...] = SPLITS) -> dict[str, bytes]:
    """Members of an archive: two classes in each split, two pictures in each class."""
    paths = [f"all/{split}/c{class_}/{image}.png" for split in splits for class_ in "01" for image in "01"]
    return {path: png(seed) for seed, path in enumerate(paths)}


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content)


# A source whose superclasses are the splits themselves.
MADE_UP: Any = SimpleNamespace(
    ABOUT=About(**ABOUT),
    items=lambda _, raw: archive.items(
        raw / "a.zip", images.SUFFIXES, lambda place, superclass, *name: superclass
    ),
)
PREPARE = images.Drawings(image_size=10, rotations=False)


def write(path: Path, form: Form, samples: np.ndarray, keys: list[Key], rotations: bool = False) -> None:
    """All rows of a split at once."""
    order = sorted(range(len(keys)), key=lambda row: (keys[row].split, keys[row].path, keys[row].name))
    with store.writing(path, form, rotations=rotations, about=ABOUT) as writer:
        for split, rows in groupby(order, key=lambda row: keys[row].split):
            chosen = list(rows)
            digests = [str((split, row)).encode().ljust(16) for row in chosen]
            writer.write([keys[row] for row in chosen], samples[chosen], digests)


FORM = images.form(8, 3)


@pytest.fixture
def rows() -> tuple[np.ndarray, list[Key]]:
    """Twelve colour pictures in no order, and keys in which `/` and `-` would sort two ways."""
    keys = [
        Key(split, superclass, "x", name)
        for name in "ba"
        for superclass in ("Old", "Old-Italic")
        for split in ("val", "train", "test")
    ]
    samples = np.random.default_rng(0).integers(0, 256, (12, *FORM.shape), dtype=np.uint8)
    return samples, keys


class TestStore:
    def test_round_trip(self, tmp_path: Path, rows: tuple[np.ndarray, list[Key]]) -> None:
        samples, keys = rows
        path = tmp_path / "data.parquet"
        write(path, FORM, samples, keys)
        for split in SPLITS:
            actual = store.load(path, split)
            assert actual.class_names == ["Old-Italic/x", "Old/x"]
            assert actual.labels.tolist() == [0, 0, 1, 1]
            assert actual.labels.dtype == np.int64
            assert actual.md5 == hashlib.md5(path.read_bytes()).hexdigest()
            assert actual.form == FORM
            expected = [
                samples[keys.index(Key(split, superclass, "x", name))]
                for superclass in ("Old-Italic", "Old")
                for name in "ab"
            ]
            assert actual.samples.dtype == np.uint8
            np.testing.assert_array_equal(actual.samples, np.stack(expected))
        assert store.about(path) == ABOUT | {"kind": "images"}
        assert {split: len(digests) for split, digests in store.digests(path).items()} == dict.fromkeys(
            SPLITS, 4
        )

    @pytest.mark.parametrize(
        ("dtype", "shape"), [("float32", (3, 7)), ("int32", (11,)), ("uint8", (1, 4, 9))]
    )
    def test_samples_of_any_shape_and_type(self, tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        form = Form("made_up", shape, dtype, {"rate": 16000})
        samples = (1000 * np.random.default_rng(0).random((6, *shape))).astype(dtype)
        keys = [Key(split, "all", "c", name) for split in SPLITS for name in "ab"]
        write(tmp_path / "data.parquet", form, samples, keys)
        for row, split in enumerate(SPLITS):
            actual = store.load(tmp_path / "data.parquet", split)
            np.testing.assert_array_equal(actual.samples, samples[2 * row : 2 * row + 2])
            assert (actual.samples.dtype, actual.form) == (np.dtype(dtype), form)

    def test_a_split_of_several_row_groups(self, tmp_path: Path) -> None:
        samples = np.random.default_rng(0).integers(0, 256, (50, *FORM.shape), dtype=np.uint8)
        keys = [Key("test", "all", f"c{row // 5}", f"{row:02d}") for row in range(50)]
        with store.writing(tmp_path / "data.parquet", FORM, rotations=False, about=ABOUT) as writer:
            for part in (slice(0, 13), slice(13, 17), slice(17, 50)):  # within classes
                writer.write(keys[part], samples[part], [bytes(16)] * len(keys[part]))
        actual = store.load(tmp_path / "data.parquet", "test")
        np.testing.assert_array_equal(actual.samples, samples)
        assert actual.labels.tolist() == [row // 5 for row in range(50)]
        assert actual.class_names == [f"all/c{number}" for number in range(10)]

    def test_same_samples_same_bytes(self, tmp_path: Path, rows: tuple[np.ndarray, list[Key]]) -> None:
        samples, keys = rows
        for name in "ab":
            write(tmp_path / name, FORM, samples, keys)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_rotations_are_classes(self, tmp_path: Path, rows: tuple[np.ndarray, list[Key]]) -> None:
        samples, keys = rows
        write(tmp_path / "plain", FORM, samples, keys)
        write(tmp_path / "turned", FORM, samples, keys, rotations=True)
        plain, turned = store.load(tmp_path / "plain", "val"), store.load(tmp_path / "turned", "val")
        for turn in range(4):
            part = slice(turn * 4, turn * 4 + 4)
            expected = np.rot90(plain.samples, turn, axes=(2, 3))
            np.testing.assert_array_equal(turned.samples[part], expected)
            assert turned.labels[part].tolist() == [2 * turn, 2 * turn, 2 * turn + 1, 2 * turn + 1]
        assert turned.class_names == [
            *("Old-Italic/x", "Old/x", "Old-Italic/x/rot090", "Old/x/rot090"),
            *("Old-Italic/x/rot180", "Old/x/rot180", "Old-Italic/x/rot270", "Old/x/rot270"),
        ]

    @pytest.mark.parametrize("limit", [0, 3000, 10**9])
    def test_samples_that_stay_in_the_file_are_the_same(self, tmp_path: Path, limit: int) -> None:
        samples = np.random.default_rng(0).integers(0, 256, (50, *FORM.shape), dtype=np.uint8)
        keys = [Key("train", "all", f"c{row // 5}", f"{row:02d}") for row in range(50)]
        with store.writing(tmp_path / "data.parquet", FORM, rotations=True, about=ABOUT) as writer:
            for start in range(0, 50, 7):
                part = slice(start, start + 7)
                writer.write(keys[part], samples[part], [bytes(16)] * len(keys[part]))
        whole = store.load(tmp_path / "data.parquet", "train")
        part = store.load(tmp_path / "data.parquet", "train", within=limit)
        assert isinstance(part.samples, store.Streamed) == (limit < 50 * 4 * FORM.nbytes)
        assert (part.class_names, part.labels.tolist()) == (whole.class_names, whole.labels.tolist())
        random = np.random.default_rng(1)
        for _ in range(20):
            rows = torch.from_numpy(random.integers(0, 200, random.integers(1, 30)))
            assert torch.equal(part.tensor().index_select(0, rows), whole.tensor().index_select(0, rows))
            assert torch.equal(part.tensor()[rows], whole.tensor()[rows])

    def test_a_stream_keeps_no_more_than_it_may(self, tmp_path: Path) -> None:
        samples = np.zeros((64, *FORM.shape), np.uint8)
        keys = [Key("train", "all", "c", f"{row:02d}") for row in range(64)]
        with store.writing(tmp_path / "data.parquet", FORM, rotations=False, about=ABOUT) as writer:
            for start in range(0, 64, 4):
                writer.write(keys[start : start + 4], samples[start : start + 4], [bytes(16)] * 4)
        stream = store.load(tmp_path / "data.parquet", "train", within=10 * FORM.nbytes).samples
        assert isinstance(stream, store.Streamed)
        for start in range(0, 64, 8):
            stream[torch.arange(start, start + 8)]
            assert sum(part.nbytes for part in stream._cache.values()) <= 10 * FORM.nbytes

    @pytest.mark.parametrize(("mebibytes", "limit"), [("1", 1 << 20), ("0", 0)])
    def test_memory_is_set_in_mib(self, monkeypatch: pytest.MonkeyPatch, mebibytes: str, limit: int) -> None:
        monkeypatch.setenv("METASHOT_MEMORY", mebibytes)
        assert store.memory() == limit
        monkeypatch.setenv("METASHOT_MEMORY", "4 GB")
        with pytest.raises(MetashotError, match="METASHOT_MEMORY=4 GB: not a number of MiB"):
            store.memory()

    def test_mistakes(self, tmp_path: Path, rows: tuple[np.ndarray, list[Key]]) -> None:
        samples, keys = rows
        path = tmp_path / "data.parquet"
        with pytest.raises(MetashotError, match=r"data\.parquet: no such file"):
            store.load(path, "train")
        write(path, FORM, samples[:1], keys[:1])
        with pytest.raises(MetashotError, match="no samples of split 'train'"):
            store.load(path, "train")
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(MetashotError, match=r"data\.parquet: cannot be read") as caught:
            store.load(path, "train")
        assert "\n" not in str(caught.value)
        pq.write_table(pa.table({"image": [b"x"]}), path)
        with pytest.raises(MetashotError, match="not a store of samples that this metashot wrote"):
            store.load(path, "train")


class TestPreprocess:
    def test_pictures_become_rows(self, tmp_path: Path) -> None:
        """A black corner becomes a white one; the filter rings a little beside the edges."""
        members = {}
        for row, name in enumerate(pictures_of()):
            picture = np.full((100, 100), 255, np.uint8)
            picture[: 50 + row, :50] = 0
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            members[name] = stream.getvalue()
        write_zip(tmp_path / "a.zip", members | {"__MACOSX/all/train/c0/0.png": b"junk", "README.txt": b"hi"})
        preprocess(MADE_UP, PREPARE, tmp_path, tmp_path / "out.parquet")
        for split in SPLITS:
            actual = store.load(tmp_path / "out.parquet", split)
            assert actual.samples.shape == (4, 1, 10, 10)
            assert actual.class_names == [f"{split}/c0", f"{split}/c1"]
            assert (actual.samples[:, 0, :4, :4] > 240).all()
            assert (actual.samples[:, 0, 7:, 7:] < 15).all()

    def test_duplicates_within_a_class_stay(self, tmp_path: Path) -> None:
        members = pictures_of()
        members["all/train/c0/1.png"] = members["all/train/c0/0.png"]
        write_zip(tmp_path / "a.zip", members)
        preprocess(MADE_UP, PREPARE, tmp_path, tmp_path / "out.parquet")
        assert len(store.load(tmp_path / "out.parquet", "train").labels) == 4

    @staticmethod
    def truncated(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-50])

    @staticmethod
    def damaged_member(path: Path) -> None:
        content = bytearray(path.read_bytes())
        where = content.index(b"all/train/c1/0.png") + 60
        content[where] ^= 0xFF
        path.write_bytes(content)

    @staticmethod
    def symbolic_link(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as file:
            link = zipfile.ZipInfo("all/train/c0/2.png")
            link.external_attr = 0o120777 << 16
            file.writestr(link, "/etc/passwd")

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (Path.unlink, "a.zip: no such archive"),
            (truncated, "a.zip: truncated or corrupt zip"),
            (lambda path: path.write_bytes(b""), "a.zip: truncated or corrupt zip"),
            (damaged_member, "a.zip: member 'all/train/c1/0.png' cannot be read"),
            (symbolic_link, "a.zip: member 'all/train/c0/2.png' is a symbolic link"),
        ],
    )
    def test_spoilt_archives(self, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
        write_zip(tmp_path / "a.zip", pictures_of())
        spoil(tmp_path / "a.zip")
        self.fails(tmp_path, message)

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"../all/train/c0/2.png": png(99)}, "member '../all/train/c0/2.png' is a name that leads out"),
            ({"all/../../x/2.png": png(99)}, "member 'all/../../x/2.png' is a name that leads out"),
            ({"/all/train/c0/2.png": png(99)}, "member '/all/train/c0/2.png' is a name that leads out"),
            ({"all\\..\\c0\\2.txt": b""}, "leads out"),
            ({"C:/all/c0/2.png": png(99)}, "leads out"),
            (
                {"all/train/c0/2.png": b"not a picture"},
                "c0/2.png' is not a readable picture",
            ),
            (
                {"all/train/c0/2.png": png(99)[:-30]},
                "c0/2.png' is not a readable picture (",
            ),
            ({"c0/2.png": png(99)}, "member 'c0/2.png' is not in <superclass>/<class>/"),
            ({"all/train/c2/0.png": png(99)}, "class train/c2 has one sample in train"),
            (
                {"all/test/c0/2.png": png(0)},
                "a.zip: member 'all/test/c0/2.png' (test/c0, test): remove one of them",
            ),
        ],
    )
    def test_refused_members(self, tmp_path: Path, members: dict[str, bytes], message: str) -> None:
        write_zip(tmp_path / "a.zip", pictures_of() | members)
        self.fails(tmp_path, message)

    def test_a_split_without_pictures(self, tmp_path: Path) -> None:
        write_zip(tmp_path / "a.zip", pictures_of(("train", "test")))
        self.fails(tmp_path, "no samples for split val")

    def fails(self, directory: Path, message: str) -> None:
        target = directory / "out.parquet"
        target.write_bytes(b"previous")
        with pytest.raises(MetashotError) as caught:
            preprocess(MADE_UP, PREPARE, directory, target)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert target.read_bytes() == b"previous"
        assert {path.name for path in directory.iterdir()} <= {"a.zip", "out.parquet"}

    def test_any_damage_is_one_clear_line_or_harmless(self, tmp_path: Path) -> None:
        write_zip(tmp_path / "a.zip", pictures_of(("train",)))
        content = (tmp_path / "a.zip").read_bytes()
        random = np.random.default_rng(0)
        failures = 0
        for _ in range(300):
            spoilt = bytearray(content)
            for where in random.integers(0, len(content), 3):
                spoilt[where] = random.integers(256)
            (tmp_path / "a.zip").write_bytes(spoilt)
            try:
                for _, read in archive.members(tmp_path / "a.zip", images.SUFFIXES):
                    read()
            except MetashotError as error:
                failures += 1
                assert "\n" not in str(error)
        assert failures > 200


class TestStages:
    """The stages as DVC runs them."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        (tmp_path / "params.yaml").write_text(
            "data: {omniglot: {source: omniglot, raw: {}, "
            "prepare: {split: vinyals, image_size: 28, rotations: true}}}\n"
        )
        (tmp_path / "data/raw/omniglot").mkdir(parents=True)
        for name in ARCHIVES:
            (tmp_path / "data/raw/omniglot" / name).write_bytes(b"previous")
        return tmp_path

    def run(self, project: Path, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"stages.{stage}", "omniglot"],
            cwd=project,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_a_missing_mirror_is_refused(self, project: Path) -> None:
        done = self.run(project, "download", METASHOT_MIRROR=str(project / "absent"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: METASHOT_MIRROR=")
        assert done.stderr.count("\n") == 1
        for name in ARCHIVES:
            assert (project / "data/raw/omniglot" / name).read_bytes() == b"previous"

    def test_download_from_a_mirror(self, project: Path, shared_data: Path) -> None:
        done = self.run(project, "download", METASHOT_MIRROR=str(shared_data / "omniglot"))
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(path.name for path in (project / "data/raw").iterdir()) == ["omniglot"]
        for name in ARCHIVES:
            repacked = shared_data / "omniglot" / name.replace(".zip", "_repacked.zip")
            assert (project / "data/raw/omniglot" / name).read_bytes() == repacked.read_bytes()

    def test_preprocess_of_a_truncated_archive(self, project: Path) -> None:
        (project / "data/processed").mkdir()
        (project / "data/processed/omniglot.parquet").write_bytes(b"previous")
        (project / "data/raw/omniglot/images_background.zip").write_bytes(b"PK\x03\x04 cut off")
        done = self.run(project, "preprocess")
        assert done.returncode == 1
        assert done.stderr.startswith("error: data/raw/omniglot/images_background.zip: truncated or corrupt")
        assert done.stderr.count("\n") == 1
        assert (project / "data/processed/omniglot.parquet").read_bytes() == b"previous"


@pytest.fixture(scope="module")
def omniglot_raw(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("omniglot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METASHOT_MIRROR", str(shared_data / "omniglot"))
        omniglot.download(omniglot.Raw(), raw)
    return raw


@pytest.fixture(scope="module")
def omniglot_parquet(omniglot_raw: Path) -> Path:
    preprocess(omniglot, OMNIGLOT, omniglot_raw, omniglot_raw / "omniglot.parquet")
    return omniglot_raw / "omniglot.parquet"


class TestOmniglot:
    @pytest.mark.parametrize(("split", "characters"), [("train", 1028), ("val", 172), ("test", 423)])
    def test_vinyals(self, omniglot_parquet: Path, shared_data: Path, split: Any, characters: int) -> None:
        actual = store.load(omniglot_parquet, split)
        published = (shared_data / "splits/omniglot/vinyals" / f"{split}.txt").read_text().split()
        names = [name if "/rot" in name else f"{name}/rot000" for name in actual.class_names]
        assert sorted(names) == sorted(published)
        assert len(names) == 4 * characters
        assert actual.samples.shape == (80 * characters, 1, 28, 28)
        assert np.array_equal(actual.labels, torch.arange(4 * characters).repeat_interleave(20))

    def test_drawings_are_scaled_and_inverted(self, omniglot_parquet: Path, omniglot_raw: Path) -> None:
        """Against the mean ink of the cells of a coarser grid, straight from the published file."""
        with zipfile.ZipFile(omniglot_raw / "images_background.zip") as file:
            names = sorted(name for name in file.namelist() if "/Korean/character07/" in name)
            drawings = [np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in names]
        actual = store.load(omniglot_parquet, "train")
        first = actual.class_names.index("Korean/character07") * 20
        for drawing, image in zip(drawings, actual.samples[first : first + 20, 0], strict=True):
            ink = (~drawing).reshape(7, 15, 7, 15).mean((1, 3))
            cells = image.reshape(7, 4, 7, 4).mean((1, 3)) / 255
            assert np.abs(ink - cells).max() < 0.06
            assert ink.max() > 0.1

    def test_the_one_known_pair_of_equal_drawings_stays(self, omniglot_parquet: Path) -> None:
        actual = store.load(omniglot_parquet, "train")
        first = actual.class_names.index("Braille/character01") * 20
        assert np.array_equal(actual.samples[first + 2], actual.samples[first + 18])
        assert not np.array_equal(actual.samples[first + 2], actual.samples[first + 3])

    def test_background_split(self, omniglot_raw: Path) -> None:
        params = replace(OMNIGLOT, split="background")
        counts: Counter[tuple[str, str]] = Counter()
        for name in ARCHIVES:
            with zipfile.ZipFile(omniglot_raw / name) as file:
                classes = {tuple(member.split("/")[1:3]) for member in file.namelist() if "." in member}
            counts.update((name, omniglot.split_of(params, *class_)) for class_ in classes)
        assert counts == {
            ("images_background.zip", "train"): 792,
            ("images_background.zip", "val"): 172,
            ("images_evaluation.zip", "test"): 659,
        }


@pytest.fixture(scope="module")
def glyphs_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("glyphs")
    glyphs.download(glyphs.Raw(seed=0, writers=4), raw)
    return raw


@pytest.fixture(scope="module")
def glyphs_parquet(glyphs_raw: Path) -> Path:
    preprocess(glyphs, GLYPHS, glyphs_raw, glyphs_raw / "glyphs.parquet")
    return glyphs_raw / "glyphs.parquet"


class TestGlyphs:
    def test_size_and_split(self, glyphs_parquet: Path) -> None:
        sets = {split: store.load(glyphs_parquet, split) for split in SPLITS}
        classes = {split: len(part.class_names) for split, part in sets.items()}
        assert sum(classes.values()) >= 1000
        assert 0.63 < classes["train"] / sum(classes.values()) < 0.72
        scripts = [{name.split("/")[0] for name in part.class_names} for part in sets.values()]
        assert sum(map(len, scripts)) == len(set.union(*scripts)) == 16
        for part in sets.values():
            assert len(part.samples) == 4 * len(part.class_names)
            assert (part.samples.max((1, 2, 3)) > 127).all()  # no blank drawing
        assert store.about(glyphs_parquet)["synthetic"] is True

    def test_no_character_twice(self, glyphs_parquet: Path) -> None:
        """Α, А and A are one shape, so at most one of them is a class in any split."""
        names = {name for split in SPLITS for name in store.load(glyphs_parquet, split).class_names}
        for alike in (("Greek/U+0391", "Cyrillic/U+0410", "Latin/U+0041"), ("Greek/U+039F", "Latin/U+004F")):
            assert len(names & set(alike)) <= 1

    def test_as_hard_as_omniglot(self, glyphs_parquet: Path) -> None:
        """Nearest neighbour on pixels, 5-way 1-shot: far above chance and far below what is learnt."""
        images = store.load(glyphs_parquet, "test").tensor().flatten(1).float().view(-1, 4, 784)
        random = np.random.default_rng(0)
        right = []
        for _ in range(1000):
            classes = random.choice(len(images), 5, replace=False)
            episode = images[classes]
            distances = torch.cdist(episode[:, 1:].reshape(15, 784), episode[:, 0])
            right.append((distances.argmin(1) == torch.arange(5).repeat_interleave(3)).double().mean())
        assert 0.45 < float(np.mean(right)) < 0.65

    @pytest.fixture
    def hebrew(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(glyphs, "SCRIPTS", {"Hebrew": glyphs.SCRIPTS["Hebrew"]})
        yield

    @pytest.mark.usefixtures("hebrew")
    def test_seed_decides_every_byte(self, tmp_path: Path) -> None:
        digests = []
        for seed in (0, 0, 1):
            glyphs.download(glyphs.Raw(seed=seed, writers=20), tmp_path)
            digests.append(hashlib.md5((tmp_path / "glyphs.zip").read_bytes()).hexdigest())
        assert digests[0] == digests[1] != digests[2]
        assert [path.name for path in tmp_path.iterdir()] == ["glyphs.zip"]

    def test_foreign_script(self, tmp_path: Path, glyphs_raw: Path) -> None:
        shutil.copy(glyphs_raw / "glyphs.zip", tmp_path)
        with zipfile.ZipFile(tmp_path / "glyphs.zip", "a") as file:
            file.writestr("Klingon/U+F8D0/01.png", png(0))
        with pytest.raises(MetashotError, match="'Klingon' is not one of the scripts"):
            preprocess(glyphs, GLYPHS, tmp_path, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: replace(OMNIGLOT, split="mine"), "split"),  # type: ignore[arg-type]
        (lambda: replace(OMNIGLOT, image_size=500), "image_size"),
        (lambda: glyphs.Raw(seed=0, writers=1), "writers"),
        (lambda: glyphs.Raw(seed=-1, writers=20), "seed"),
        (lambda: replace(GLYPHS, image_size=0), "image_size"),
    ],
)
def test_params_name_the_key_that_is_wrong(build: Callable[[], object], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        build()


def test_source() -> None:
    assert SOURCES["omniglot"] is omniglot
    with pytest.raises(
        MetashotError, match=r"^unknown source 'klingon': there are audio_folder, encoded_folder, glyphs, "
    ):
        SOURCES["klingon"]


def test_a_zip_of_a_later_format_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "later.zip"
    write_zip(path, {"a/b/0.png": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack the member
    path.write_bytes(content)
    with pytest.raises(
        MetashotError, match=r"later\.zip: a zip of a later format \(zip file version 9\.9\): pack"
    ):
        archive.contents(path)
