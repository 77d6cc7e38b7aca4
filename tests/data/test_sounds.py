"""Sounds: the decoder against a second implementation, and the pipeline from files to predictions."""

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from project import Project
from scipy import signal
from serving import ask, serving
from typer.testing import CliRunner

from benchmarks import toys
from metashot.cli.app import app
from metashot.data import Form, store
from metashot.data.files import division
from metashot.data.kinds import sounds
from metashot.data.preprocess import preprocess
from metashot.data.sources import audio_folder
from metashot.errors import MetashotError
from metashot.learning.models import methods

PREPARE = audio_folder.Prepare(
    sample_rate=16000,
    seconds=1.0,
    mels=40,
    window_ms=40.0,
    hop_ms=20.0,
    range_db=80.0,
    repeated="refuse",
    split=division.Shares(of="classes", seed=0, val=0.25, test=0.25),
)
FORM = PREPARE.form
SPLITS = ("train", "val", "test")


def encoded(sound: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    """A sound ``[T]`` or ``[T, channels]`` as a file."""
    stream = io.BytesIO()
    soundfile.write(stream, sound, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def tone(hertz: float, rate: int = 16000, seconds: float = 1.0, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def picture(content: bytes, form: Form = FORM) -> np.ndarray:
    """Decoded, as integers that can be subtracted."""
    return sounds.decode(content, form)[0][0].astype(int)


def centres(mels: int, rate: int) -> np.ndarray:
    """Centres of the filters in Hz: equally spaced on the mel scale, by the inverse of its formula."""
    highest = 1127 * math.log(1 + rate / 2 / 700)  # the same scale with the natural logarithm
    return np.array([700 * math.expm1(highest * (i + 1) / (mels + 1) / 1127) for i in range(mels)])


@pytest.mark.parametrize(("mels", "rate", "bins"), [(40, 16000, 513), (20, 8000, 257), (64, 44100, 2049)])
def test_filters_are_triangles_around_equally_spaced_mels(mels: int, rate: int, bins: int) -> None:
    filters, at, middle = (
        sounds.filters(mels, rate, bins),
        np.linspace(0, rate / 2, bins),
        centres(mels, rate),
    )
    ends = np.array([0, *middle, rate / 2])
    for row, (low, centre, high) in enumerate(zip(ends, ends[1:], ends[2:], strict=False)):
        np.testing.assert_allclose(filters[row], np.interp(at, [low, centre, high], [0, 1, 0]), atol=1e-9)
    between = (at >= middle[0]) & (at <= middle[-1])
    np.testing.assert_allclose(filters.sum(axis=0)[between], 1)  # neighbours add up


def test_a_spectrogram_is_that_of_scipy() -> None:
    """The same windows by scipy's transform, summed and scaled one by one."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000) * np.linspace(0, 1, 16000) ** 2
    transform = signal.ShortTimeFFT(signal.get_window("hann", 640), 320, fs=16000, mfft=1024)
    power = transform.spectrogram(noise, p0=0, p1=49, k_offset=transform.m_num_mid)
    at, middle = np.linspace(0, 8000, 513), [0, *centres(40, 16000), 8000]
    weights = [np.interp(at, middle[i : i + 3], [0, 1, 0]) for i in range(40)]
    mel = np.array([[sum(w * p) for p in power.T] for w in weights])
    expected = 255 * (1 + np.clip(10 * np.log10(mel / mel.max()), -80, 0) / 80)
    actual = picture(encoded(noise, subtype="DOUBLE"))
    assert actual.shape == (40, 49) == FORM.shape[1:]
    assert actual.max() == 255
    assert actual.min() < 50
    np.testing.assert_allclose(actual, expected, atol=0.500001)  # to the nearest whole number


@pytest.mark.parametrize(
    "subtype", ["ALAW", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_32"]
)
def test_the_middle_is_that_of_the_whole_in_every_encoding(subtype: str) -> None:
    """Against a sound that is read from its beginning: some encodings cannot seek."""
    content = encoded(toys.chirp(3, 0, 64_000), 16000, "WAV", subtype)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        whole = file.read(file.frames, dtype="float64")
    assert sounds.about(content).seconds == len(whole) / 16000
    np.testing.assert_array_equal(picture(content), picture(encoded(whole, subtype="DOUBLE")))


def test_many_channels_are_averaged_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (16_000, 6))
    content = encoded(noise, subtype="DOUBLE")
    expected = sounds.decode(content, FORM)
    monkeypatch.setattr(sounds, "_BLOCK", 1000)
    actual = sounds.decode(content, FORM)
    np.testing.assert_array_equal(actual[0], expected[0])
    assert actual[1] == expected[1]
    np.testing.assert_array_equal(actual[0][0], picture(encoded(noise.mean(axis=1), subtype="DOUBLE")))


def streamed(content: bytes, riff: int, data: int) -> bytes:
    """A WAV file as it is written to a pipe."""
    return (
        content[:4] + riff.to_bytes(4, "little") + content[8:40] + data.to_bytes(4, "little") + content[44:]
    )


@pytest.mark.parametrize(
    ("riff", "data"), [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFF), (36, 0), (0xFFFFFFFF, 0)]
)
def test_a_stream_whose_length_was_not_known_is_read_to_its_end(riff: int, data: int) -> None:
    content = encoded(toys.chirp(3, 0, 40_000))
    spoilt = streamed(content, riff, data)
    assert sounds.about(spoilt) == sounds.about(content)
    np.testing.assert_array_equal(picture(spoilt), picture(content))


def test_a_flac_of_unknown_length_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(encoded(toys.chirp(3, 0, 40_000), kind="FLAC"))
    known = bytes(content)
    content[21] &= 0xF0  # the low 36 bits of these 8 bytes are the number of samples
    content[22:26] = bytes(4)
    assert sounds.about(bytes(content)) == sounds.about(known)
    np.testing.assert_array_equal(picture(bytes(content)), picture(known))
    monkeypatch.setattr(sounds, "_DECODED", 30_000)
    with pytest.raises(ValueError, match="too long for a stream: more than 30,000 samples of each channel"):
        sounds.about(bytes(content))


def test_a_wav_without_a_sound_is_empty_whatever_follows() -> None:
    content = encoded(np.zeros(0))
    note = b"LIST" + (4).to_bytes(4, "little") + b"INFO"
    for end in (b"", note):
        with pytest.raises(ValueError, match="empty"):
            sounds.about(content + end)
    long = encoded(toys.chirp(3, 0, 40_000))
    junk = b"junk" + (3_000_000).to_bytes(4, "little") + bytes(3_000_000)
    headed = long[:36] + junk + long[36:]
    headed = headed[:4] + (len(headed) - 8).to_bytes(4, "little") + headed[8:]
    np.testing.assert_array_equal(picture(headed), picture(long))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("row", [5, 20, 27])
def test_a_pure_tone_lands_in_its_row_whatever_the_sample_rate(rate: int, row: int) -> None:
    actual = picture(encoded(tone(centres(40, 16000)[row], rate), rate))
    assert (actual[:, 2:-2].argmax(axis=0) == row).all()
    np.testing.assert_allclose(actual[row, 2:-2], 255, atol=1)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *(("WAV", depth) for depth in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        *(("FLAC", depth) for depth in ("PCM_S8", "PCM_16", "PCM_24")),
        *(("WAVEX", "PCM_24"), ("RF64", "PCM_16")),
    ],
)
def test_format_depth_and_channels_do_not_matter(kind: str, subtype: str) -> None:
    """Except for values that 8 bits cannot represent, 48 dB below the loudest."""
    sound = toys.chirp(3, 0, 16000)
    form = replace(PREPARE, range_db=30.0).form
    plain = picture(encoded(sound, subtype="DOUBLE"), form)
    for channels in (sound, np.stack([sound, sound], axis=1), np.stack([sound, 0 * sound, sound], axis=1)):
        # 16 of 255 are 2 dB at 30 dB below the loudest
        assert np.abs(picture(encoded(channels, 16000, kind, subtype), form) - plain).max() <= 16


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_resampled_sound_is_the_one_recorded_at_the_rate(rate: int) -> None:
    """One that slides from 300 to 3,500 Hz, down to 40 dB below the loudest."""
    form = replace(PREPARE, range_db=40.0).form
    slides = [signal.chirp(np.arange(r) / r, 300, 1, 3500) / 2 for r in (rate, 16000)]
    actual, expected = picture(encoded(slides[0], rate), form), picture(encoded(slides[1]), form)
    assert np.abs(actual - expected)[:, 1:-1].max() <= 4  # at the ends the filter meets silence
    assert np.abs(actual - expected).mean() < 0.5


def test_decibels_are_a_straight_line_and_loudness_does_not_count() -> None:
    """A tone 20 dB below another is 20 / 80 of the scale below it."""
    rows = centres(40, 16000)[[10, 30]]
    sound = tone(rows[0]) + 0.1 * tone(rows[1])
    actual = picture(encoded(sound, subtype="DOUBLE"))
    assert actual[10, 5] - actual[30, 5] == pytest.approx(255 * 20 / 80, abs=3)
    for loud in (1e-9, 0.3, 1e250):
        assert np.array_equal(picture(encoded(loud * sound, subtype="DOUBLE")), actual)
    assert not picture(encoded(0 * sound)).any()


def test_sounds_are_cropped_to_their_middle_or_padded_with_silence() -> None:
    beep = tone(1000, seconds=1.0)
    long = np.concatenate([tone(3000, seconds=2), beep, tone(3000, seconds=2)])
    assert np.abs(picture(encoded(long))[:, 1:-1] - picture(encoded(beep))[:, 1:-1]).max() <= 1
    actual = picture(encoded(tone(1000, seconds=0.5)))
    loud = actual.max(axis=0) > 200
    assert (loud[14:35].all(), loud[:11].any(), loud[38:].any()) == (True, False, False)  # 12.5 to 36.5


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:9000] + bytes(byte ^ 0xFF for byte in content[9000:9100]) + content[9100:]


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
SPOILT = [
    (b"", "not a readable sound, WAV or FLAC (Format not recognised)"),
    (b"no sound" * 100, "not a readable sound, WAV or FLAC (Format not recognised)"),
    (encoded(NOISE)[:30], "cut off: 30 of 32,044 bytes"),
    (cut(encoded(NOISE)), "cut off: 16,022 of 32,044 bytes"),
    (cut(encoded(NOISE, kind="FLAC")), "not a readable sound, WAV or FLAC (flac decoder lost sync)"),
    (
        flipped(encoded(NOISE, kind="FLAC")),
        "not a readable sound, WAV or FLAC (unknown error in flac decoder)",
    ),
    (encoded(NOISE[:0]), "empty"),
    (encoded(NOISE[:600]), "too short: 37.5 ms are less than a window of 40.0 ms"),
    (encoded(np.append(NOISE, np.nan), subtype="FLOAT"), "a sound with values that are not finite"),
    (encoded(np.append(NOISE, np.inf), subtype="DOUBLE"), "a sound with values that are not finite"),
    (encoded(NOISE, kind="OGG", subtype="VORBIS"), "a file of format OGG; WAV and FLAC are read"),
    (encoded(NOISE, kind="AIFF"), "a file of format AIFF; WAV and FLAC are read"),
    (encoded(NOISE, rate=100), "a sound of 100 Hz, not of 1000 to 384000"),
]


@pytest.mark.parametrize(("content", "message"), SPOILT)
def test_a_spoilt_sound_is_one_clear_line(content: bytes, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        sounds.decode(content, FORM)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_any_damage_is_one_clear_line_or_harmless(kind: str) -> None:
    content = encoded(toys.chirp(0, 0, 8000), 8000, kind)
    random, failures = np.random.default_rng(0), 0
    for _ in range(200):
        spoilt = bytearray(content)
        for where in random.integers(0, 60 if random.random() < 0.5 else len(content), 3):
            spoilt[where] = random.integers(256)
        try:
            assert sounds.decode(bytes(spoilt), FORM)[0].shape == FORM.shape
        except ValueError as error:
            failures += 1
            assert "\n" not in str(error)
            assert " at 0x" not in str(error)
    assert failures > 50


def test_a_digest_depends_on_the_decoded_sound_alone() -> None:
    sound = np.round(32767 * NOISE) / 32768  # exact in 16 bits
    same = [
        encoded(sound),
        encoded(sound, kind="FLAC"),
        encoded(np.stack([sound, sound], axis=1)),
        encoded(sound, subtype="FLOAT"),
    ]
    digests = {sounds.decode(content, FORM)[1] for content in same}
    assert len(digests) == 1
    sound[8000] += 1 / 32768
    assert sounds.decode(encoded(sound), FORM)[1] not in digests


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("sample_rate", 0), ("seconds", 0.0), ("seconds", float("nan")), ("mels", 0), ("range_db", 0.0)),
        *(("hop_ms", 50.0), ("hop_ms", 0.01), ("hop_ms", 0.0), ("mels", 400)),
    ],
)
def test_prepare_names_the_key_that_is_wrong(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        replace(PREPARE, **{key: value})


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight classes of two sounds in the working directory, with the class in the file name."""
    monkeypatch.chdir(tmp_path)
    for class_ in range(8):
        toys.write_sound(tmp_path / f"sounds/anna/{class_}_anna_0.wav", class_, 0)
        toys.write_sound(tmp_path / f"sounds/{class_}_ben_1.flac", class_, 1)
    return tmp_path / "sounds"


BY_NAME = audio_folder.Raw(path="sounds", splits="", md5="", label=r"^(?P<label>\d+)_")


def test_file_names_can_say_the_class(named: Path) -> None:
    Path("splits").mkdir()
    for split, classes in zip(SPLITS, ("0123", "45", "67"), strict=True):
        Path(f"splits/{split}.txt").write_text("\n".join(classes))
    raw = replace(BY_NAME, splits="splits")
    raw = replace(raw, md5=audio_folder.digest(raw, Path()))
    Path("raw").mkdir()
    audio_folder.download(raw, Path("raw"))
    preprocess(audio_folder, replace(PREPARE, split="listed"), Path("raw"), Path("out.parquet"))
    actual = store.load(Path("out.parquet"), "test")
    assert actual.class_names == ["all/6", "all/7"]
    files = [
        path
        for class_ in "67"
        for path in (named / f"{class_}_ben_1.flac", named / f"anna/{class_}_anna_0.wav")
    ]
    expected = {sounds.decode(path.read_bytes(), FORM)[0].tobytes() for path in files}
    assert {sample.tobytes() for sample in actual.samples} == expected
    assert actual.form == FORM


def test_a_folder_that_names_classes_twice_over_or_not_at_all(named: Path) -> None:
    for name, message in (
        ("intro.wav", "sounds: 'intro.wav': no class in the name by raw.label"),
        ("ben/3_ben_1.flac", "sounds: '3_ben_1.flac' and 'ben/3_ben_1.flac' have one name"),
    ):
        toys.write_sound(named / name, 0, 2)
        with pytest.raises(MetashotError) as caught:
            audio_folder.digest(BY_NAME, Path())
        assert message in str(caught.value)
        (named / name).unlink()
        if name.count("/"):
            (named / name).parent.rmdir()
    with pytest.raises(MetashotError, match="not at the depth of the others"):
        audio_folder.digest(replace(BY_NAME, label=""), Path())
    for label in (r"(?P<label>", r"(\d+)_"):
        with pytest.raises(ValueError, match=r"^label: "):
            replace(BY_NAME, label=label)


def test_a_spoilt_file_is_named_and_nothing_is_written(named: Path) -> None:
    (named / "3_ben_1.flac").write_bytes(cut((named / "3_ben_1.flac").read_bytes()))
    raw = replace(BY_NAME, md5=audio_folder.digest(BY_NAME, Path()))
    Path("raw").mkdir()
    audio_folder.download(raw, Path("raw"))
    with pytest.raises(MetashotError, match=r"member 'all/3/3_ben_1.flac' is not a readable"):
        preprocess(audio_folder, PREPARE, Path("raw"), Path("out.parquet"))
    assert not Path("out.parquet").exists()


CLASSES, SAMPLES = 100, 8
TEST = [class_ for class_ in range(CLASSES) if toys.split_of(class_, CLASSES) == "test"]


DATASET = "audio_folder"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict]:
    """Chirps, trained through the stages, and the metrics of each method."""
    folder = tmp_path_factory.mktemp("sounds")
    for class_ in range(CLASSES):
        for sample in range(SAMPLES):
            toys.write_sound(folder / f"sounds/chirp{class_:03d}/{sample:02d}.wav", class_, sample)
    (folder / "splits").mkdir()
    for split in SPLITS:
        listed = [f"chirp{c:03d}" for c in range(CLASSES) if toys.split_of(c, CLASSES) == split]
        (folder / f"splits/{split}.txt").write_text("\n".join(listed))
    project = Project(folder / "project")
    raw = audio_folder.Raw(path=str(folder / "sounds"), splits=str(folder / "splits"), md5="")
    with project.params() as params:
        section = params["data"]["audio_folder"]
        section["raw"] |= {"path": raw.path, "splits": raw.splits, "md5": audio_folder.digest(raw, Path())}
        section["prepare"]["split"] = "listed"
        section["backbone"] |= {"width": 32, "downsample": "stride"}
        section["budget"] = {"prototypical": 60, "maml": {"steps": 60, "lr": 2e-3, "train_way": 20}}
        params["datasets"] = ["audio_folder"]
        params["setting"]["5w1s"] |= {"n_query": 7, "train_way": 20, "train_episodes": 200, "extra": {}}
    return project, project.make(DATASET)


@pytest.fixture(scope="module")
def model_root(trained: tuple[Project, dict]) -> Path:
    """See `published`."""
    return trained[0].root


@pytest.mark.slow
def test_methods_learn_to_tell_unseen_sounds_apart(trained: tuple[Project, dict]) -> None:
    project, metrics = trained
    assert store.about(project.root / "data/processed/audio_folder.parquet")["source"] == "an audio folder"
    for measured in metrics.values():  # chance is 0.2
        assert measured["accuracy"] - measured["ci95"] > max(0.6, measured["untrained"]["accuracy"])


@pytest.fixture(scope="module")
def task(trained: tuple[Project, dict]) -> list[Path]:
    """Files of five classes: one support sound of each, and three queries."""
    top = trained[0].root.parent / "sounds"
    return [top / f"chirp{class_:03d}/{sample:02d}.wav" for sample in range(4) for class_ in TEST[:5]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_served_answers_are_direct_ones(
    published: tuple, model_root: Path, task: list, method: str, tmp_path: Path
) -> None:
    root, versions = published
    rows = [(path.read_bytes(), path.parent.name if row < 5 else None) for row, path in enumerate(task)]
    plain = mlflow.pyfunc.load_model(versions[method].source)
    answer = ask(plain, rows, ("sound", "label"))
    samples = torch.from_numpy(np.stack([sounds.decode(path.read_bytes(), FORM)[0] for path in task]))
    direct = methods.load(model_root / f"models/{DATASET}-5w1s/{method}")
    with torch.no_grad():
        values = samples.float()[None] / 255
        truth = direct.predict(values[:, :5], torch.arange(5)[None], values[:, 5:], 5)[0].numpy()
    names = [path.parent.name for path in task[:5]]
    shown = [[row["probabilities"][name] for name in names] for row in answer]
    np.testing.assert_allclose(shown, truth, rtol=1e-4, atol=1e-7)
    right = [row["label"] == path.parent.name for row, path in zip(answer, task[5:], strict=True)]
    assert np.mean(right) > 0.4
    if method == "prototypical":
        model = {method: f"models:/audio_folder-5w1s/{versions[method].version}"}
        with serving(root, model, tmp_path) as addresses:
            assert ask(addresses[method], rows, ("sound", "label")) == answer
            wrong = [*rows, (base64.b64encode(b"no sound").decode(), None)]
            message = ask(addresses[method], wrong, ("sound", "label"))
        assert message == "row 20: sound is not a readable sound, WAV or FLAC (Format not recognised)"
        assert ask(plain, [*rows, (3, None)], ("sound", "label")) == (
            "row 20: sound is int: give the bytes of a sound file, or their base64"
        )
        assert ask(plain, rows) == "unknown column 'image': the table has `sound` and `label`"


@pytest.mark.slow
def test_predict_answers_about_files(
    published: tuple, task: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, versions = published
    monkeypatch.chdir(root)
    for row, path in enumerate(task):
        folder = tmp_path / (f"support/{path.parent.name}" if row < 5 else "asked")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:02d}.WAV").write_bytes(path.read_bytes())
    (tmp_path / "asked/cover.png").write_bytes(b"a picture beside the sounds")
    command = [
        "predict",
        "audio_folder-5w1s",
        str(tmp_path / "asked"),
        "--support",
        str(tmp_path / "support"),
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    report = f"{tmp_path / 'asked'}: ignores 1 files of other kinds (1 .png)\n"
    assert (done.exit_code, done.stderr) == (0, report)
    answers = json.loads(done.stdout)
    rows = [(path.read_bytes(), path.parent.name if row < 5 else None) for row, path in enumerate(task)]
    champion = mlflow.pyfunc.load_model(versions["prototypical"].source)
    expected = champion.predict(pd.DataFrame(rows, columns=["sound", "label"]))
    assert [answer["label"] for answer in answers] == expected["label"].tolist()
    assert [Path(answer["sample"]).name for answer in answers] == [f"{row:02d}.WAV" for row in range(5, 20)]
    for extra, message in (
        (["--picture", "out.png"], "--picture: draws pictures, and audio_folder-5w1s/1 takes sound files"),
        ([str(tmp_path / "asked/cover.png")], "asked/cover.png is not a readable sound"),
    ):
        done = CliRunner().invoke(app, [*command, *extra])
        lines = done.stderr.splitlines()
        assert (done.exit_code, [line for line in lines if not line.endswith("other kinds (1 .png)")]) == (
            1,
            lines[-1:],
        )
        assert message in lines[-1]


def test_the_section_of_params_yaml_is_prepared_as_here() -> None:
    section = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["data"]["audio_folder"]
    known = {key: value for key, value in section["prepare"].items() if key not in ("split", "repeated")}
    assert sounds.Prepare(**known).form == FORM
