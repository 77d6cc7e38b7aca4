"""`metashot init`: what it detects, proposes, and leaves unchanged in params.yaml."""

import difflib
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onboarding
import pytest
from onboarding import SHIPPED
from PIL import Image
from project import Project
from ruamel.yaml import YAML

from metashot.config import check, edit, params
from metashot.data import store
from metashot.data.files import folders
from metashot.data.preprocess import preprocess
from metashot.data.sources import image_folder
from metashot.errors import MetashotError
from metashot.learning.models.episodes import sample
from metashot.onboard import inspect, inspectors, near_duplicates, propose

RAW = folders.Raw(path="pictures", splits="", md5="")


def noise(seed: int, size: tuple[int, int] = (12, 15), *, grey: bool = False) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 1 if grey else 3), dtype=np.uint8)
    return Image.fromarray(np.repeat(pixels, 3, -1) if grey else pixels)


def fill(classes: int, each: int, first: int = 0, **options: object) -> None:
    """Class folders of pictures in the working directory."""
    for number in range(classes * each):
        path = Path(f"pictures/class{number // each:02d}/{first + number % each}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(10_000 * first + number, **options).save(path)


def init(*arguments: str, code: int = 0) -> list[str]:
    """Lines of output of `metashot init`."""
    return onboarding.init(*arguments, code=code).splitlines()


def described(name: str = "pictures") -> dict:
    return onboarding.described(name)


@pytest.mark.parametrize(
    ("classes", "each", "of"),
    [
        *((classes, each, "samples") for classes, each in ((2, 6), (3, 20), (14, 8))),
        *((classes, each, "classes") for classes, each in ((15, 2), (17, 9), (15, 11), (40, 21), (100, 20))),
    ],
)
def test_every_manifest_of_a_proposal_can_be_drawn(classes: int, each: int, of: str) -> None:
    fill(classes, each)
    lines = init("pictures")
    setting = lines[-1].rpartition(" ")[2]
    assert lines[-1] == f"next: metashot run --data pictures --setting {setting}"
    path = Path("params.yaml")
    check.check(path)
    file: params.File = params.read(path, "", params.File)
    assert (file.datasets, file.settings) == (["glyphs"], ["5w1s"])  # what is described already stays listed
    raw = params.read(path, "data.pictures.raw", image_folder.Raw)
    prepare = params.read(path, "data.pictures.prepare", image_folder.Prepare)
    assert prepare.split.of == of
    assert any("results are about known classes" in line for line in lines) == (of == "samples")
    Path("raw").mkdir()
    image_folder.download(raw, Path("raw"))  # refuses another digest than that of the files
    preprocess(image_folder, prepare, Path("raw"), Path("out.parquet"))
    s: params.Setting = params.read(path, f"setting.{setting}", params.Setting)
    train, val, test = (store.load(Path("out.parquet"), split) for split in ("train", "val", "test"))
    for samples, n_way, k_shot, n_query in (
        (train, s.train_way, s.k_shot, s.train_query),
        (val, s.n_way, s.k_shot, s.n_query),
        (test, s.n_way, s.k_shot, s.n_query),
        *((test, extra.n_way, extra.k_shot, s.n_query) for extra in s.extra.values()),
    ):
        sample(samples, n_way=n_way, k_shot=k_shot, n_query=n_query, episodes=3, seed=0)
    assert (setting == "5w1s") == (classes == 100)  # the shipped one fits nothing smaller
    assert s.n_way == min(5, classes)


def test_no_other_character_of_params_is_changed() -> None:
    fill(20, 4)
    init("pictures", "--name", "mine")
    old, new = SHIPPED.splitlines(), Path("params.yaml").read_text().splitlines()
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    changed = [(old[a:b], new[c:d]) for kind, a, b, c, d in steps if kind != "equal"]
    assert [(before, after[0]) for before, after in changed] == [([], "  mine:"), ([], "  5w1s_mine:")]


def settings() -> dict:
    section: dict = YAML(typ="safe").load(Path("params.yaml").read_text())["setting"]
    return section


def chosen(lines: list[str]) -> dict:
    """The proposed setting."""
    return settings()[lines[-1].rpartition(" ")[2]]


def test_a_setting_is_the_best_for_the_data_whatever_was_described_before() -> None:
    fill(64, 8)
    Path("pictures").rename("many")
    fill(3, 6)
    alone = chosen(init("many"))
    Path("params.yaml").write_text(SHIPPED)
    few = chosen(init("pictures"))
    before = settings()
    after = chosen(init("many"))
    assert after == alone
    assert (few["n_way"], after["n_way"], after["n_query"]) == (3, 5, 7)
    assert after["train_way"] == len(propose.init(Path(), replace(RAW, path="many"), "x").sizes["train"])
    assert {name: settings()[name] for name in before} == before  # none is changed
    assert chosen(init("pictures", "--name", "again")) == few


def test_a_setting_of_the_same_name_is_left_to_others() -> None:
    fill(20, 4)
    taken = {"5w1s_mine": settings()["5w1s"] | {"k_shot": 3, "extra": {}}}
    Path("params.yaml").write_text(edit.edited(SHIPPED, "setting.5w1s_mine", taken["5w1s_mine"]))
    lines = init("pictures", "--name", "mine")
    assert lines[-1] == "next: metashot run --data mine --setting 5w1s_mine_2"
    assert settings()["5w1s_mine"] == taken["5w1s_mine"]
    text = Path("params.yaml").read_text()
    assert init("pictures", "--name", "mine")[-1] == lines[-1]
    assert Path("params.yaml").read_text() == text


def test_data_are_described_while_others_are_crossed() -> None:
    fill(15, 4)
    crossed = SHIPPED.replace("datasets: [glyphs]", "datasets: [glyphs, omniglot]").replace(
        "cross: {trained_on: [], tested_on: []}", "cross: {trained_on: [glyphs], tested_on: [omniglot]}"
    )
    Path("params.yaml").write_text(crossed)
    check.check(Path("params.yaml"))
    init("pictures")
    check.check(Path("params.yaml"))


def test_a_line_about_params_never_names_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(15, 4)
    monkeypatch.setattr(propose, "BUDGET", {"maml": 0})
    (line,) = [line for line in init("pictures", code=1) if line.startswith("error: ")]
    assert "/params.yaml: data.pictures.budget.maml: needs outer steps" in line
    assert Path("params.yaml").read_text() == SHIPPED
    assert not list(Path().glob(".params*"))


def test_a_second_run_pins_new_content_and_keeps_manual_changes() -> None:
    fill(20, 4)
    first = init("pictures")
    split, md5 = described()["prepare"]["split"], described()["raw"]["md5"]
    path = Path("params.yaml")
    text = path.read_text().replace("flip: true", "flip: false").replace("maml: 150", "maml: 7")
    text = re.sub("^( +)colour: true$", r"\1colour: true\n\1fit: crop", text, flags=re.MULTILINE)
    path.write_text(text)
    assert init("pictures")[:-2] == first[:-2]
    assert path.read_text() == text
    for number in range(20, 30):  # three of the classes that the draw puts elsewhere
        shutil.copytree("pictures/class00", f"pictures/class{number}")
        for file in Path(f"pictures/class{number}").iterdir():
            noise(hash(file) % 2**32).save(file)
    init("pictures")
    now = described()
    assert (now["prepare"]["split"], now["augment"]["flip"], now["budget"]["maml"]) == (split, False, 7)
    assert now["prepare"]["fit"] == "crop"
    assert now["raw"]["md5"] == image_folder.digest(RAW, Path()) != md5
    assert path.read_text() == text.replace(md5, now["raw"]["md5"])


@pytest.mark.parametrize(
    ("size", "grey", "expected"),
    [((40, 40), False, (32, True)), ((60, 70), False, (84, True)), ((200, 90), True, (28, False))],
)
def test_size_and_colour_follow_the_pixels(
    size: tuple[int, int], grey: bool, expected: tuple[int, bool]
) -> None:
    fill(15, 2, size=size, grey=grey)
    init("pictures")
    prepare = described()["prepare"]
    assert (prepare["image_size"], prepare["colour"]) == expected
    assert bool(described()["augment"]) == expected[1]


def test_neither_the_grey_of_a_jpeg_nor_a_stain_counts_as_colour() -> None:
    kind = inspectors.PICTURES

    def coloured(image: Image.Image, **options: object) -> bool:
        stream = io.BytesIO()
        image.save(stream, **options)
        return bool(kind.inspect(stream.getvalue()).facts.coloured)

    plain = noise(0, (100, 100), grey=True).resize((300, 300))
    assert not coloured(plain, format="JPEG", quality=60)
    stained = plain.copy()
    stained.paste((255, 0, 0), (0, 0, 20, 20))  # 0.4 %
    assert not coloured(stained, format="PNG")
    stained.paste((255, 0, 0), (0, 0, 60, 60))  # 4 %
    assert coloured(stained, format="PNG")


def test_near_duplicates_are_those_of_brute_force() -> None:
    random = np.random.default_rng(0)
    thumbnails = random.integers(0, 256, (400, 16, 18, 3), dtype=np.uint8)
    hashed = random.integers(0, 2**64, 400, dtype=np.uint64)
    for row in range(0, 300, 2):  # up to 5 bits apart, and a little or much to the eye
        bits = random.choice(64, row % 6, replace=False).tolist()
        hashed[row + 1] = hashed[row] ^ np.uint64(sum(1 << bit for bit in bits))
        shift = random.integers(0, 14, thumbnails[row].shape)
        thumbnails[row + 1] = np.clip(thumbnails[row] + shift, 0, 255)
    expected = []
    for one, other in combinations(range(400), 2):
        apart = np.abs(thumbnails[one].astype(float) - thumbnails[other]).mean()
        bits = (int(hashed[one]) ^ int(hashed[other])).bit_count()
        if bits <= near_duplicates.BITS and apart <= near_duplicates.DIFFERENCE * thumbnails[one].std():
            expected.append([one, other])
    assert 80 < len(expected) < 150
    assert near_duplicates.find(hashed, thumbnails).tolist() == expected


def test_a_picture_saved_again_is_near_and_the_next_one_is_not() -> None:
    fill(15, 3, size=(90, 120))
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (120, 90)
    )
    photo.save("pictures/class00/0.png")
    photo.save("pictures/class07/0.png")
    photo.resize((80, 60)).save("pictures/class09/0.jpg", quality=70)
    inspection = inspect.inspect(RAW, Path())
    assert inspection.duplicates == [["class00/0.png", "class07/0.png"]]
    assert inspection.near_duplicates == [["class00/0.png", "class09/0.jpg"]]
    assert any(
        line.startswith("near duplicates  0 within a class, 1 across classes") for line in init("pictures")
    )


@pytest.mark.slow
def test_pictures_that_are_all_alike_are_compared_in_linear_time() -> None:
    thumbnails = np.zeros((20_000, 16, 18, 3), np.uint8)
    assert near_duplicates.find(near_duplicates.hashes(thumbnails), thumbnails).shape == (
        0,
        2,
    )  # plain: nothing is said
    thumbnails[:, :8] = 200
    pairs = near_duplicates.find(near_duplicates.hashes(thumbnails), thumbnails)
    assert len(np.unique(pairs)) == 20_000  # each is in some pair
    assert len(pairs) < 20_000 * near_duplicates.WINDOW


def test_lists_of_splits_are_written_and_kept() -> None:
    fill(20, 4)
    Path("lists").mkdir()
    for split, numbers in (("train", range(8)), ("val", range(8, 13)), ("test", range(13, 19))):
        Path(f"lists/{split}.txt").write_text("".join(f"class{n:02d}\n" for n in numbers))
    lines = init("pictures", "--splits", "lists")
    assert described()["prepare"]["split"] == "listed"
    assert described()["raw"] == {
        "path": "pictures",
        "splits": "lists",
        "md5": image_folder.digest(replace(RAW, splits="lists"), Path()),
    }
    before = Path("params.yaml").read_text()
    init("pictures")  # they are named already
    assert Path("params.yaml").read_text() == before
    assert any("8 / 5 / 6 classes for training" in line for line in lines)
    assert any("4 files that no list of splits names" in line for line in lines)


def test_folders_named_like_splits_are_remarked_on() -> None:
    fill(15, 4)
    Path("pictures").rename("one")
    fill(15, 4, first=4)
    Path("pictures").rename("other")
    Path("pictures").mkdir()
    Path("one").rename("pictures/train")
    Path("other").rename("pictures/test")
    assert any("'test' and 'train' look like splits" in line for line in init("pictures"))


def test_paths_are_from_the_repository_unless_they_are_absolute(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(15, 2)
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    init("../pictures")
    monkeypatch.chdir(project)
    assert described()["raw"]["path"] == "pictures"
    init(str(project / "pictures"), "--name", "absolute")
    assert described("absolute")["raw"]["path"] == str(project / "pictures")


def test_a_missing_project_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(15, 2)
    Path("dvc.yaml").unlink()
    (line,) = init("pictures", code=1)
    assert line.startswith("error: no project in ")
    assert "clone metashot's repository with git" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: raw.path: nothing: no such folder or zip file"),
        (["pictures", "--name", "glyphs"], "error: params.yaml: data.glyphs describes other data (glyphs)"),
        (
            ["pictures", "--name", "image_folder"],
            "error: params.yaml: data.image_folder describes other data (../images)",
        ),
        (["pictures", "--name", "a-b"], "error: --name a-b: needs a letter"),
        (["pictures", "--splits", "pictures"], "pictures: no list of split train"),
        (["one"], "error: one: 1 class folders with samples"),
    ],
)
def test_unusable_data_are_one_line_and_change_nothing(arguments: list[str], message: str) -> None:
    fill(15, 2)
    shutil.copytree("pictures/class00", "one/class00")
    lines = init(*arguments, code=1)
    assert any(message in line for line in lines)
    assert Path("params.yaml").read_text() == SHIPPED


def test_a_wrong_params_file_is_named_first() -> None:
    fill(15, 2)
    Path("params.yaml").write_text(SHIPPED.replace("    meta_batch:", "    meta_patch:", 1))
    assert "method.siamese.meta_patch: unknown key" in init("pictures", code=1)[0]


@pytest.mark.parametrize(
    ("text", "key", "value", "expected"),
    [
        ("a: 1 # one\nb: 2\n", "a", [3, "x"], "a: [3, x] # one\nb: 2\n"),
        ("a:\n- 1\n- 2 # two\nb: 2\n", "a", [3], "a: [3] # two\nb: 2\n"),
        ("a: {b: {c: 1}, d: 2}\n", "a.b.c", "", 'a: {b: {c: ""}, d: 2}\n'),
        ("a: {}\nb: 1\n", "a.new", {"c": True}, "a: {new: {c: true}}\nb: 1\n"),
        ("a: {b: 1} # it\n", "a.new", 1.5, "a: {b: 1, new: 1.5} # it\n"),
        (
            "a:\n  b: 1 # it\n\n# next\nc: 2",
            "a.new",
            "no 1",
            'a:\n  b: 1 # it\n  new: "no 1"\n\n# next\nc: 2',
        ),
        ("a:\n  b:\n    c: 1\n  d: 2\n", "a.b", {"e": 3}, "a:\n  b: {e: 3}\n  d: 2\n"),
        ("ü: {b: é}\n", "ü.b", "1e3", 'ü: {b: "1e3"}\n'),
    ],
)
def test_a_section_is_set_and_the_rest_of_the_text_stays(
    text: str, key: str, value: object, expected: str
) -> None:
    assert edit.edited(text, key, value) == expected


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: *x\n", "a: 1\n", "[1, 2]\n", "a: [\n"])
def test_an_impossible_edit_is_one_line(text: str) -> None:
    with pytest.raises(MetashotError, match=r"params.yaml: c.b cannot be edited automatically: set it to 2"):
        edit.edited(text, "c.b", 2)


def test_a_long_section_has_a_line_for_each_part_and_reads_back() -> None:
    value = {"one": {f"key{n}": f"value {n}" for n in range(20)}, "two": {"x": [1, None, "null", "5w1s"]}}
    text = edit.edited("data:\n    old: 1\nend: 2\n", "data.new", value)
    assert YAML(typ="safe").load(text) == {"data": {"old": 1, "new": value}, "end": 2}
    assert max(map(len, text.splitlines())) <= edit.LINE
    assert '      two: {x: [1, null, "null", 5w1s]}' in text.splitlines()


def test_counts_are_those_of_the_files() -> None:
    fill(15, 4)
    (Path("pictures/class03/0.png")).unlink()
    rows = inspect.summary(inspect.inspect(RAW, Path()))
    assert (rows["classes"], rows["pictures"], rows["sizes"], rows["modes"]) == (
        "15",
        "59",
        "15x12",
        "59 RGB",
    )
    assert rows["per class"].startswith("3 to 4, median 4; the largest has 1.3 times")
    proposal = propose.init(Path(), RAW, "mine")
    counts = Counter(proposal.splits.values())
    assert f"{counts['train']}" and sum(counts.values()) == 59
    assert json.dumps(proposal.section({"maml": {"lr": 0.1}}))


@pytest.mark.slow
def test_from_a_folder_to_a_prediction_in_three_commands(tmp_path: Path) -> None:
    Path("params.yaml").unlink()
    Path("dvc.yaml").unlink()
    fill(15, 12)
    project = Project(tmp_path / "project")
    text = (project.root / "params.yaml").read_text()
    assert "pictures" not in text
    project.run("metashot", "init", "../pictures")
    with project.params() as written:
        data, setting = written["data"]["pictures"], written["setting"]["5w1s_pictures"]
        data["budget"] |= {"prototypical": 5, "maml": 3}  # nothing to learn in noise
        setting |= {"test_episodes": 20, "val_episodes": 5, "train_episodes": 20, "extra": {}}
    project.run("metashot", "run", "--data", "pictures", "--setting", "5w1s_pictures")
    shown = tmp_path / "shown"
    for class_ in ("class03", "class08"):
        (shown / class_).mkdir(parents=True)
        shutil.copy(f"pictures/{class_}/0.png", shown / class_)
    asked = [str(shown / class_ / "0.png") for class_ in ("class03", "class08")]
    command = ["metashot", "predict", "pictures-5w1s_pictures/1", *asked, "--support", str(shown), "--json"]
    answers = json.loads(project.run(*command).stdout)
    assert [answer["label"] for answer in answers] == ["class03", "class08"]
