"""Lists of splits as benchmarks publish them, against brute force and the published lists."""

import csv
import functools
import hashlib
import io
import json
import shutil
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metashot.data import store
from metashot.data.files import folders, split_lists
from metashot.data.kinds import images
from metashot.data.preprocess import preprocess
from metashot.data.sources import image_folder
from metashot.errors import MetashotError

SPLITS = split_lists.SPLITS
CLASSES = {  # superclass: classes
    "cats": ["lion", "lynx", "puma", "tiger"],
    "dogs": ["fox", "jackal", "wolf"],
    "fish": ["carp", "eel", "pike"],
    "birds": ["crow", "owl"],
}
DIVIDED = {  # split: superclasses
    "train": ["cats", "birds"],
    "val": ["dogs"],
    "test": ["fish"],
}


def picture(name: str) -> bytes:
    """A picture of its own for each name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def put(names: Iterable[str], folder: str = "images") -> None:
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name))


def put_lists(suffix: str, lists: dict[str, list], folder: str = "lists") -> None:
    Path(folder).mkdir(exist_ok=True)
    for split, lines in lists.items():
        text = json.dumps(lines) if suffix == "json" else "".join(f"{line}\n" for line in lines)
        Path(folder, f"{split}.{suffix}").write_text(text)


def arranged(path: str = "images", lists: str = "lists") -> folders.Contents:
    return folders.contents(image_folder.Raw(path=path, splits=lists, md5=""), Path(), images.SUFFIXES)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


WANTED = {
    f"{split}/{above}/{class_}/{number}.png"
    for split, superclasses in DIVIDED.items()
    for above in superclasses
    for class_ in CLASSES[above]
    for number in range(2)
}
BY_CLASS: dict[str, Callable[[str], list]] = {
    "a class on a line": lambda split: [c for above in DIVIDED[split] for c in CLASSES[above]],
    "superclass and class on a line": lambda split: [f"{a}/{c}" for a in DIVIDED[split] for c in CLASSES[a]],
    "a superclass on a line": lambda split: list(DIVIDED[split]),
}


@pytest.mark.parametrize("suffix", ["txt", "json"])
@pytest.mark.parametrize("notation", BY_CLASS)
def test_lists_of_classes_divide_superclass_folders(suffix: str, notation: str) -> None:
    put(
        f"{above}/{class_}/{number}.png"
        for above in CLASSES
        for class_ in CLASSES[above]
        for number in range(2)
    )
    put(f"unlisted/{number}.png" for number in range(3))
    shutil.move("images/unlisted", "images/more/unlisted")
    put_lists(suffix, {split: BY_CLASS[notation](split) for split in SPLITS})
    contents = arranged()
    assert set(contents.samples) == WANTED
    for name, read in contents.samples.items():
        assert read() == picture(name.partition("/")[2])
    assert (contents.unlisted, contents.mistakes) == (3, [])


def test_pairs_divide_folders_without_superclasses_and_join_parts_of_a_class() -> None:
    """The layout of CIFAR-100: train and test folders that each contain every class."""
    for part in ("train", "test"):
        put(
            f"{part}/{class_}/{part[1]}{n}.png"
            for below in CLASSES.values()
            for class_ in below
            for n in range(2)
        )
    put_lists("json", {s: [[a, c] for a in DIVIDED[s] for c in CLASSES[a]] for s in SPLITS})
    expected = {
        name.replace(f"/{number}.png", f"/{part[1]}{number}.png"): picture(
            f"{part}/{name.split('/')[2]}/{part[1]}{number}.png"
        )
        for part in ("train", "test")
        for number in range(2)
        for name in WANTED
        if name.endswith(f"/{number}.png")
    }
    assert {name: read() for name, read in arranged().samples.items()} == expected


def test_files_of_one_name_in_both_parts_are_both_kept() -> None:
    for part in ("train", "test"):
        put(f"{part}/{class_}/0.png" for below in CLASSES.values() for class_ in below)
    put_lists("json", {s: [[a, c] for a in DIVIDED[s] for c in CLASSES[a]] for s in SPLITS})
    samples = arranged().samples
    assert len(samples) == 2 * 12
    assert {samples[f"test/fish/eel/{part}-0.png"]() for part in ("train", "test")} == {
        picture("train/eel/0.png"),
        picture("test/eel/0.png"),
    }


def test_superclasses_divide_folders_without_them_through_a_hierarchy() -> None:
    put(f"{class_}/{number}.png" for below in CLASSES.values() for class_ in below for number in range(2))
    put_lists("json", dict(DIVIDED))
    with pytest.raises(
        MetashotError, match=r"4 of 4 that the lists name \('birds', 'cats', 'dogs', …\) have no folder"
    ):
        arranged()
    pairs = [[above, class_] for above, below in CLASSES.items() for class_ in below]
    Path("lists/hierarchy.json").write_text(json.dumps(pairs))
    assert set(arranged().samples) == WANTED
    shutil.rmtree("images/eel")
    with pytest.raises(MetashotError, match=r"'fish/eel' has no folder with samples in images"):
        arranged()
    Path("lists/hierarchy.json").write_text(json.dumps(["fish"]))
    with pytest.raises(MetashotError, match=r"hierarchy.json: 'fish' is not a pair of superclass and class"):
        arranged()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train": ["lion"], "val": ["fox"]},
            "no list of split test: it needs one of test.txt, test.json and test.csv",
        ),
        ({"train": ["lion"], "val": ["lion"], "test": ["eel"]}, "'lion' is in train and in val"),
        (
            {"train": ["lion"], "val": ["yeti"], "test": ["eel"]},
            "'yeti' has no folder with samples in images",
        ),
        ({"train": [], "val": ["fox"], "test": ["eel"]}, "an empty list of classes"),
        (
            {"train": ["a/b/c"], "val": ["fox"], "test": ["eel"]},
            "is neither a class nor a pair of superclass and class",
        ),
    ],
)
def test_wrong_lists_are_one_line(lists: dict[str, list], message: str) -> None:
    put(f"{class_}/{number}.png" for below in CLASSES.values() for class_ in below for number in range(2))
    put_lists("txt", lists)
    with pytest.raises(MetashotError) as caught:
        arranged()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_of_both_kinds_are_refused() -> None:
    put(f"{class_}/0.png" for class_ in ("lion", "fox"))
    put_lists("txt", {"train": ["lion"], "val": ["fox"]})
    put_lists("csv", {"test": ["filename,label", "0.png,lion"]})
    with pytest.raises(MetashotError, match=r"lists of files .* and of classes together"):
        arranged()


def rows(lists: Path, classes: int) -> dict[str, list[tuple[str, str]]]:
    """The published rows, file and label, of the first classes of each split."""
    listed = {}
    for split in SPLITS:
        with (lists / f"{split}.csv").open() as file:
            pairs = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
        first = list(dict.fromkeys(label for _, label in pairs))[:classes]
        listed[split] = [(name, label) for name, label in pairs if label in first]
    return listed


@pytest.fixture
def ravi(shared_data: Path) -> dict[str, list[tuple[str, str]]]:
    """miniImageNet's published lists, three classes of each split, as lists of their own."""
    listed = rows(shared_data / "splits/miniimagenet/ravi", 3)
    put_lists(
        "csv", {s: ["filename,label", *(f"{n},{label}" for n, label in pairs)] for s, pairs in listed.items()}
    )
    return listed


@pytest.mark.parametrize("layout", ["flat", "by class"])
def test_published_lists_of_files_divide_miniimagenet(ravi: dict, layout: str) -> None:
    place = {
        name: name if layout == "flat" else f"{label}/{name}"
        for pairs in ravi.values()
        for name, label in pairs
    }
    put(place.values())
    put(["extra.png"])
    contents = arranged()
    assert {name: read() for name, read in contents.samples.items()} == {
        f"{split}/all/{label}/{name}": picture(place[name])
        for split, pairs in ravi.items()
        for name, label in pairs
    }
    assert Counter(name.split("/")[0] for name in contents.samples) == dict.fromkeys(SPLITS, 1800)
    assert contents.unlisted == 1


def test_published_lists_find_the_files_of_imagenet_by_their_places(ravi: dict) -> None:
    """`n0185567200000003.jpg` is the third of `n01855672/n01855672_*.JPEG`, sorted by number."""
    random = np.random.default_rng(0)
    expected, numbered = {}, {}
    for split, pairs in ravi.items():
        by_label = defaultdict(list)
        for name, label in pairs:
            by_label[label].append(name)
        for label, names in by_label.items():
            places = {int(name.removeprefix(label).removesuffix(".jpg")) for name in names}
            numbers = sorted(random.choice(20_000, max(places), replace=False).tolist())
            for place in sorted(places):  # the others are only counted: they need no pixels
                file = f"{label}/{label}_{numbers[place - 1]}.JPEG"
                expected[f"{split}/all/{label}/{label}{place:08d}.jpg"] = picture(file)
            numbered[label] = numbers
    for label, numbers in numbered.items():
        put(f"{label}/{label}_{number}.JPEG" for number in numbers)
    contents = arranged()
    assert {name: read() for name, read in contents.samples.items()} == expected
    assert contents.unlisted == sum(map(len, numbered.values())) - len(expected)


def test_missing_files_of_a_list_are_counted(ravi: dict) -> None:
    put(name for pairs in ravi.values() for name, _ in pairs[5:])
    with pytest.raises(
        MetashotError, match=r"images: 15 of 5,400 files that the lists name are missing \('n0"
    ):
        arranged()


def test_the_miniimagenet_layout_goes_through_the_pipeline(ravi: dict) -> None:
    put(f"images/{name}" for pairs in ravi.values() for name, _ in pairs)  # one folder around it
    raw = image_folder.Raw(path="images", splits="lists", md5="")
    raw = image_folder.Raw(path="images", splits="lists", md5=image_folder.digest(raw, Path()))
    Path("raw").mkdir()
    image_folder.download(raw, Path("raw"))
    prepare = image_folder.Prepare(
        image_size=8, colour=True, rotations=False, repeated="refuse", split="listed"
    )
    preprocess(image_folder, prepare, Path("raw"), Path("out.parquet"))
    for split in SPLITS:
        actual = store.load(Path("out.parquet"), split)
        assert actual.class_names == sorted({f"all/{label}" for _, label in ravi[split]})
        assert np.bincount(actual.labels).tolist() == [600] * 3
    assert store.about(Path("out.parquet"))["classes"] == "disjoint"


@pytest.mark.slow
def test_cifar_fs_has_its_classes_without_duplicates_across_splits(shared_data: Path) -> None:
    """Against the published pairs and a count of equal pixels of our own."""
    archive, lists = shared_data / "cifar100/cifar100_by_class.zip", shared_data / "splits/cifar-fs"
    home = {c: (s, f"{a}/{c}") for s in SPLITS for a, c in json.loads((lists / f"{s}.json").read_text())}
    raw = image_folder.Raw(path=str(archive), splits=str(lists), md5="")
    raw = image_folder.Raw(path=raw.path, splits=raw.splits, md5=image_folder.digest(raw, Path()))
    Path("raw").mkdir()
    image_folder.download(raw, Path("raw"))
    prepare = image_folder.Prepare(
        image_size=32, colour=True, rotations=False, repeated="remove", split="listed"
    )
    preprocess(image_folder, prepare, Path("raw"), Path("out.parquet"))
    places = defaultdict(list)
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.endswith(".webp"):
                pixels = np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB"))
                places[hashlib.sha256(pixels.tobytes()).digest()].append(home[name.split("/")[2]])
    expected: Counter[tuple[str, str]] = Counter()
    removed = 0
    for occurrences in places.values():
        first = min(split for split, _ in occurrences)  # test before train before val
        expected.update(place for place in occurrences if place[0] == first)
        removed += sum(split != first for split, _ in occurrences)
    actual = Counter()
    for split in SPLITS:
        samples = store.load(Path("out.parquet"), split)
        actual.update(
            {
                (split, n): int(c)
                for n, c in zip(samples.class_names, np.bincount(samples.labels), strict=True)
            }
        )
    assert actual == expected
    assert store.about(Path("out.parquet"))["removed"] == removed == 15
    assert Counter(split for split, _ in actual) == {"train": 64, "val": 16, "test": 20}


def test_fc100_is_its_superclasses_through_the_pairs_of_cifar_fs(shared_data: Path) -> None:
    shutil.copytree(shared_data / "splits/fc100", "lists", copy_function=shutil.copyfile)
    Path("lists").chmod(0o755)
    pairs = [
        pair for s in SPLITS for pair in json.loads((shared_data / f"splits/cifar-fs/{s}.json").read_text())
    ]
    Path("lists/hierarchy.json").write_text(json.dumps(pairs))
    contents = arranged(str(shared_data / "cifar100/cifar100_by_class.zip"))
    expected = {
        (split, above, class_)
        for split in SPLITS
        for above in json.loads(Path(f"lists/{split}.json").read_text())
        for superclass, class_ in pairs
        if superclass == above
    }
    actual = Counter(tuple(name.split("/")[:3]) for name in contents.samples)
    assert actual == dict.fromkeys(expected, 600)
    assert Counter(split for split, *_ in expected) == {"train": 60, "val": 20, "test": 20}
    assert (contents.unlisted, contents.mistakes) == (0, [])


def put_files(lists: dict[str, list[tuple[str, str]]], separator: str = ",", mark: str = "") -> None:
    """Lists of files, optionally with a byte order mark."""
    Path("lists").mkdir(exist_ok=True)
    for split, lines in lists.items():
        text = "".join(f"{separator.join(line)}\n" for line in [("filename", "label"), *lines])
        Path("lists", f"{split}.csv").write_text(mark + text, encoding="utf-8")


def numbered(name: str) -> dict[str, list[tuple[str, str]]]:
    """Six classes in three splits, each with 14 files named by number; ``name`` is a row's first value."""
    return {
        split: [(name.format(c=c, n=n), f"c{c:02d}") for c in (2 * at, 2 * at + 1) for n in range(14)]
        for at, split in enumerate(SPLITS)
    }


@pytest.mark.parametrize("name", ["{n:03d}.png", "c{c:02d}/{n:03d}.png", "./images/c{c:02d}/{n:03d}.png"])
def test_a_missing_file_is_never_another_one(name: str) -> None:
    """Names are numbers: none of them stands for the n-th file of its class, or for that of another class."""
    put(f"c{c:02d}/{n:03d}.png" for c in range(6) for n in range(14))
    put_files(numbered(name))
    contents = arranged()
    assert {path: read() for path, read in contents.samples.items()} == {
        f"{split}/all/{label}/{n:03d}.png": picture(f"{label}/{n:03d}.png")
        for split, lines in numbered(name).items()
        for label in {label for _, label in lines}
        for n in range(14)
    }
    assert contents.unlisted == 0
    for c in range(5):  # the last one stays: it is the only one of its name, and of another class
        Path(f"images/c{c:02d}/006.png").unlink()
    with pytest.raises(MetashotError, match=r"5 of 84 files that the lists name are missing \(") as caught:
        arranged()
    assert repr(name.format(c=0, n=6)) in str(caught.value)


@pytest.mark.parametrize(
    ("label", "folder", "file", "row"),
    [
        ("0", "0", "0_{}.JPEG", "0{:03d}.jpg"),  # a label that is a number itself
        ("n01", "n01", "{}.JPEG", "n01{:08d}.jpg"),  # files that are not numbered behind their label
        ("n01", "pictures", "n01_{}.JPEG", "n01{:08d}.jpg"),
        ("c0", "c0", "c0_{}.png", "c0{}.png"),  # numbered otherwise than miniImageNet's rows are
    ],
)
def test_a_place_counts_only_behind_a_label_among_files_of_that_name(
    label: str, folder: str, file: str, row: str
) -> None:
    put(f"{folder}/{file.format(number)}" for number in range(5))
    put(f"x/{number}.png" for number in range(2))
    put_files({"train": [(row.format(n), label) for n in (1, 2)], "val": [("x/0.png", "x")], "test": []})
    with pytest.raises(MetashotError, match=r"2 of 3 files that the lists name are missing"):
        arranged()


def test_repeated_and_contradictory_rows_are_counted() -> None:
    put(f"{c}/{n}.png" for c in "abc" for n in range(3))
    lists = {s: [(f"{n}.png", c) for n in range(2)] for s, c in zip(SPLITS, "abc", strict=True)}
    put_files(lists | {"train": lists["train"] * 2})
    contents = arranged()
    assert (len(contents.samples), contents.unlisted) == (6, 3)
    put_files(lists | {"val": [("a/0.png", "b")]})
    with pytest.raises(MetashotError, match="1 of 5 files that the lists name are missing"):
        arranged()
    put(["flat.png"])
    put_files(lists | {"val": [*lists["val"], ("flat.png", "b")], "test": [("flat.png", "c")]})
    with pytest.raises(MetashotError, match=r"1 of 6 .* are listed with two labels \('flat.png'\)"):
        arranged()
    put(["x/twice.png", "y/twice.png"])
    put_files(lists | {"val": [("twice.png", "b")]})
    with pytest.raises(MetashotError, match=r"1 of 5 .* exist more than once: give their paths"):
        arranged()


def test_files_of_one_class_and_name_are_all_kept() -> None:
    names = ["train/a/0.png", "test/a/0.png", "more/train/a/0.png", "a/1.png"]
    put([*names, *(f"{c}/{n}.png" for c in "bc" for n in range(2))])
    put_lists("txt", {"train": ["a"], "val": ["b"], "test": ["c"]})
    expected = sorted(picture(name) for name in names)
    samples = arranged().samples
    assert sorted(read() for path, read in samples.items() if "/a/" in path) == expected
    assert len(samples) == 8
    put(["a/train-0.png"])
    with pytest.raises(MetashotError, match="would have one name: rename one of them"):
        arranged()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_and_byte_order_marks_of_lists_do_not_matter(separator: str, mark: str) -> None:
    put(f"c{c:02d}/{n:03d}.png" for c in range(6) for n in range(14))
    put_files(numbered("{n:03d}.png"), separator, mark)
    assert len(arranged().samples) == 84
    shutil.rmtree("lists")
    for suffix in ("txt", "json"):
        lists = {s: sorted({label for _, label in lines}) for s, lines in numbered("").items()}
        put_lists(suffix, lists, suffix)
        for path in Path(suffix).iterdir():
            path.write_text(mark + path.read_text(), encoding="utf-8")
        assert len(arranged(lists=suffix).samples) == 84


def test_lists_may_be_in_utf_16_and_name_classes_by_numbers() -> None:
    put(f"{c}/{c}-{n}.png" for c in range(6) for n in range(4))
    classes = {split: [2 * at, 2 * at + 1] for at, split in enumerate(SPLITS)}
    expected = {f"{s}/all/{c}/{c}-{n}.png" for s, its in classes.items() for c in its for n in range(4)}
    for suffix, write in {
        "json": lambda its: json.dumps(its),
        "txt": lambda its: "".join(f"{c}/\r\n" for c in its),
        "csv": lambda its: (
            "filename\tlabel\n"
            + "".join(f"{c}-{n}.png\t{c}{'.0' if n else ''}\n" for c in its for n in range(4))
        ),
    }.items():
        Path(suffix).mkdir()
        for split, its in classes.items():
            Path(suffix, f"{split}.{suffix}").write_text(write(its), encoding="utf-16")
        assert {*arranged(lists=suffix).samples} == expected, suffix


@pytest.mark.parametrize(("in_list", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_form_of_unicode(in_list: str, on_disk: str) -> None:
    names = {split: f"Käse{split}" for split in SPLITS}
    put(
        unicodedata.normalize(on_disk, f"{above}/{name}/ö{number}.png")
        for above, name in zip(("Äpfel", "Öl", "Öl"), names.values(), strict=True)
        for number in range(2)
    )
    listed = {split: unicodedata.normalize(in_list, name) for split, name in names.items()}
    put_lists("txt", {split: [name] for split, name in listed.items()})
    classes = {path.rpartition("/")[0] for path in arranged().samples}
    assert classes == {"train/Äpfel/Käsetrain", "val/Öl/Käseval", "test/Öl/Käsetest"}
    shutil.rmtree("lists")
    form = functools.partial(unicodedata.normalize, in_list)
    put_files({s: [(form(f"ö{n}.png"), listed[s]) for n in range(2)] for s in SPLITS})
    assert {path.split("/")[2] for path in arranged().samples} == {*names.values()}
    assert len(arranged().samples) == 6


def test_the_lists_of_easyset_name_the_folders_of_classes() -> None:
    put(f"{class_}/{number}.png" for below in CLASSES.values() for class_ in below for number in range(2))
    Path("lists").mkdir()
    for split in SPLITS:
        classes = [c for above in DIVIDED[split] for c in CLASSES[above]]
        easy = {
            "class_names": [f"the {c}" for c in classes],
            "class_roots": [f"./data/{c}" for c in classes],
        }
        Path(f"lists/{split}.json").write_text(json.dumps(easy))
    assert {tuple(path.split("/")[::2]) for path in arranged().samples} == {
        (path.split("/")[0], path.split("/")[2]) for path in WANTED
    }
    Path("lists/val.json").write_text(json.dumps({"class_names": ["x" * 30] * 1000}))
    with pytest.raises(MetashotError, match="expected a list of classes, of pairs") as caught:
        arranged()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "filename,label\n0.png,a\n1.png,\n2.png\n,a\n3.png, \n",
            "4 rows without a filename or a label (line 3,",
        ),
        ("filename,label\n0.png,a/b\n", "a label that cannot name a class"),
        (
            "file,class\n0.png,a\n",
            "the columns filename and label, once each (it begins 'file,class')",
        ),
        ("filename,label,filename\n0.png,a,1.png\n", "the columns filename and label, once each"),
        ("", "has no column names: its first line"),
        (b"filename,label\n\xff.png,a\n", "byte 15 is not UTF-8: save the file as UTF-8"),
        ('filename,label\n0.png,"a\n1.png,a\n', "close quotation marks"),
        ("filename,label\n0.png,a,b,c\n", "line 2: more values than columns"),
    ],
)
def test_a_list_of_files_that_is_none_is_one_line(content: str | bytes, message: str) -> None:
    put(f"{c}/{n}.png" for c in "abc" for n in range(3))
    put_files({s: [(f"{n}.png", c) for n in range(2)] for s, c in zip(SPLITS, "abc", strict=True)})
    Path("lists/train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MetashotError) as caught:
        arranged()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
