"""Pictures of any size to that of the form, stretched or cropped: in training, and where a model is asked."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metashot.data import store
from metashot.data.files import division
from metashot.data.kinds import images
from metashot.data.preprocess import preprocess
from metashot.data.sources import image_folder

SIZES = [(28, 28), (105, 105), (40, 24), (24, 40), (7, 90), (61, 33), (1, 1), (300, 2)]


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_stretched_pictures_are_those_of_pillow(width: int, height: int, channels: int) -> None:
    pixels = noise(width, height, channels)
    scaled = np.asarray(Image.fromarray(pixels).resize((28, 28), Image.Resampling.LANCZOS))
    expected = scaled.transpose(2, 0, 1) if channels == 3 else 255 - scaled[None]
    decoded, _ = images.decode(png(pixels), images.form(28, channels))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    ("width", "height", "left", "top", "side"),
    [(40, 24, 8, 0, 24), (24, 40, 0, 8, 24), (28, 28, 0, 0, 28), (100, 20, 40, 0, 20), (9, 90, 0, 40, 9)],
)
def test_cropped_pictures_are_the_square_in_their_middle(
    width: int, height: int, left: int, top: int, side: int
) -> None:
    pixels = noise(width, height)
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    form = images.form(16, 3, fit="crop")
    decoded, digest = images.decode(png(pixels), form)
    expected, of_square = images.decode(png(square), images.form(16, 3))
    np.testing.assert_array_equal(decoded, expected)
    assert (digest == of_square) == (width == height)  # what is cut off still tells pictures apart


def test_of_an_odd_margin_one_side_loses_a_pixel_more() -> None:
    pixels = noise(8, 9)
    decoded, _ = images.decode(png(pixels), images.form(8, 3, fit="crop"))
    assert any(np.array_equal(decoded, pixels[top : top + 8].transpose(2, 0, 1)) for top in (0, 1))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_that_is_served_is_prepared_as_in_training(width: int, height: int, fit: str) -> None:
    colour = images.form(16, 3, fit=fit)
    content = png(noise(width, height))
    served, (decoded, _) = images.served(content, colour), images.decode(content, colour)
    assert served.dtype == np.float32
    np.testing.assert_array_equal(served, decoded.astype(np.float32) / np.float32(255))
    grey = images.form(16, 1, fit=fit)
    content = png(noise(width, height, 1) // 2)  # light on dark, which decoding inverts and serving does not
    np.testing.assert_array_equal(
        images.served(content, grey), (255 - images.decode(content, grey)[0]).astype(np.float32) / 255
    )


def test_a_data_set_keeps_its_fit_with_the_samples(tmp_path: Path) -> None:
    pixels = {
        f"class{number // 2}/{number % 2}.png": noise(30, 20, seed=number) // 2 + 100 for number in range(24)
    }
    for name, array in pixels.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
    raw = image_folder.Raw(path="pictures", splits="", md5="")
    raw = replace(raw, path=str(tmp_path / "pictures"))
    raw = replace(raw, md5=image_folder.digest(raw, tmp_path))
    (tmp_path / "raw").mkdir()
    image_folder.download(raw, tmp_path / "raw")
    prepare = image_folder.Prepare(
        image_size=20,
        colour=True,
        fit="crop",
        rotations=False,
        repeated="refuse",
        split=division.Shares(of="classes", seed=0, val=0.25, test=0.25),
    )
    preprocess(image_folder, prepare, tmp_path / "raw", tmp_path / "out.parquet")
    stored = [store.load(tmp_path / "out.parquet", split) for split in ("train", "val", "test")]
    for samples in stored:
        assert samples.form == prepare.form
        assert samples.form.decoding == {"fit": "crop"}
    found = {sample.tobytes() for samples in stored for sample in samples.samples}
    assert found == {array[:, 5:25].transpose(2, 0, 1).tobytes() for array in pixels.values()}


def test_forms_name_only_what_is_not_usual() -> None:
    """Models and data sets from before there was a choice say nothing of it."""
    assert images.form(16, 3).decoding == {}
    assert images.form(16, 3, bits=12, fit="crop").decoding == {"bits": 12, "fit": "crop"}


def test_an_unknown_fit_is_refused() -> None:
    shares = division.Shares(of="classes", seed=0, val=0.25, test=0.25)
    with pytest.raises(ValueError, match=r"^fit: 'pad' is neither 'stretch' nor 'crop'"):
        image_folder.Prepare(
            image_size=20, colour=True, fit="pad", rotations=False, repeated="refuse", split=shares
        )
