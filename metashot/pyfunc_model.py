"""A registered model: MLflow runs this file to build it ("models from code"), so nothing is pickled.

One table is one few-shot task. Rows with a ``label`` are the support set; rows whose label is null are
answered, in their order, with the most probable class, its probability and the probabilities of all classes.
A plain call and ``mlflow models serve`` give the same answers and the same errors: MLflow hands the table
over as it came, and all of it is checked here.
"""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

COLUMNS = ("image", "label")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # those that training data may have
LARGEST_PICTURE = 25_000_000  # pixels: some 500 MB while it is decoded
CHUNK = 250  # pictures in memory at once, where each is answered by itself
TOGETHER = 1000  # pictures in memory at once, where a method needs them together: some 400 MB at 28x28


class TableError(MlflowException):  # type: ignore[misc]
    """What is wrong with a table, in one line. MLflow's server answers status 400 with it as ``message``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The body of the answer: the line alone, without the print of the table that the server adds."""
        self.message = str(self)
        body: str = super().serialize_as_json()
        return body


def pixels(encoded: bytes, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Decode a picture to ``[C, H, W]`` in [0, 1], prepared as the training data was.

    Models with one channel read drawings: ink is 1 on a background of 0. A drawing whose border is mostly
    lighter than mid-grey is dark ink on light paper, and is inverted; light on dark is taken as it is.
    Transparent parts are paper, white. Of an animation the first picture counts.

    Raises:
        ValueError: The bytes are not a picture, or one of more than 25 million pixels.
    """
    try:
        picture = _decode(encoded, "L" if channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise ValueError("not a readable picture (PNG, JPEG, BMP and WebP are)") from None
    except Exception as error:  # Pillow's decoders raise almost anything at damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a readable picture ({reason})") from None
    if channels == 1:
        drawing = np.asarray(picture)
        border = np.concatenate([drawing[0], drawing[-1], drawing[:, 0], drawing[:, -1]])
        if np.median(border) > 127:
            picture = ImageOps.invert(picture)
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), np.float32)
    return scaled.reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)


def _decode(encoded: bytes, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=FORMATS) as opened:
        if opened.width * opened.height > LARGEST_PICTURE:  # known before anything is decoded
            raise ValueError(f"{opened.width}x{opened.height} is more than {LARGEST_PICTURE:,} pixels")
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):  # 16 bits; Pillow would cut off all above 255
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture.convert(mode)


class FewShotModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A trained few-shot method behind MLflow's predict."""

    def load_context(self, context: Any) -> None:
        """Load model.safetensors and model.json."""
        # Imported here: MLflow also runs this file when it saves a model, where torch is not needed.
        from metashot import methods, runtime

        described = Path(context.artifacts["model.json"])
        self.image: list[int] = json.loads(described.read_text())["image"]
        self.device = runtime.best_device()
        self.method = methods.load(described.parent, self.device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Answer the unlabelled rows.

        Pictures that do not depend on each other are embedded and answered in chunks, so memory stays
        bounded and the other queries of a table move an answer by no more than rounding. MAML and Reptile
        adapt to all labelled rows at once. A transductive model (``query_norm: query``) needs all queries at
        once too: each answer depends on every query, so chunks would be other tasks with other answers. What
        is needed at once is never divided. Where it exceeds 1,000 rows the table is refused, and whether to
        divide it is left to the caller.

        Args:
            context: Not used.
            model_input: ``image`` (bytes of a PNG, JPEG, BMP or WebP file, or the same in base64, as JSON and
                CSV carry it) and ``label`` (class name, or null): a table, or what pandas makes one of.
            params: Not used.

        Returns:
            A row for each unlabelled row, in order: ``label``, ``probability``, ``probabilities`` (by class).

        Raises:
            TableError: What is wrong with the table, in one line. Rows are counted from 0.
        """
        import torch

        from metashot.errors import MetashotError

        support, queries = _rows(model_input)
        classes = {name: number for number, name in enumerate(sorted(set(support["label"])))}
        if len(classes) < 2:
            raise TableError(
                f"every labelled row says {min(classes)!r}: few-shot classification needs two classes"
            )
        try:
            self.method.check_setting(len(classes))
        except MetashotError as error:
            raise TableError(f"the labelled rows are of {len(classes)} classes: {error}") from None
        labels = torch.tensor([[classes[name] for name in support["label"]]], device=self.device)
        with torch.no_grad():
            answers = self._probabilities(support, labels, queries, len(classes)).double().cpu().numpy()
        names = list(classes)
        return pd.DataFrame(
            {
                "label": [names[best] for best in answers.argmax(1)],
                "probability": answers.max(1),
                "probabilities": [dict(zip(names, map(float, row), strict=True)) for row in answers],
            }
        )

    def _probabilities(self, support: pd.DataFrame, labels: Any, queries: pd.DataFrame, n_way: int) -> Any:
        """Of M queries: ``[M, N]``."""
        import torch

        from metashot.methods.base import EmbeddingMethod

        method = self.method
        if isinstance(method, EmbeddingMethod):
            embedded = torch.cat([method.embed(images) for images in self._images(support, CHUNK)], dim=1)

            def answer(images: torch.Tensor) -> torch.Tensor:
                return method.classify(embedded, labels, method.embed(images), n_way).softmax(-1)
        else:
            together = len(support) + (len(queries) if method.transductive else 0)
            if together > TOGETHER:
                which = "all rows of a table" if method.transductive else "all labelled rows"
                raise TableError(
                    f"this model needs {which} at once, at most {TOGETHER:,}: here are {together:,}"
                )
            (shown,) = self._images(support, len(support))

            def answer(images: torch.Tensor) -> torch.Tensor:
                return method.predict(shown, labels, images, n_way)

        size = len(queries) if method.transductive else CHUNK
        return torch.cat([answer(images) for images in self._images(queries, size)], dim=1)[0]

    def _images(self, rows: pd.DataFrame, size: int) -> Iterator[Any]:
        """The rows' pictures, ``size`` at a time: ``[1, M, C, H, W]``."""
        import torch

        for start in range(0, len(rows), size):
            decoded = []
            for number, encoded in rows["image"].iloc[start : start + size].items():
                try:
                    decoded.append(pixels(_bytes(encoded), *self.image))
                except ValueError as error:
                    raise TableError(f"row {number}: image is {error}") from None
            yield torch.from_numpy(np.stack(decoded))[None].to(self.device)


def _rows(table: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into labelled and unlabelled rows, numbered from 0."""
    try:
        table = pd.DataFrame(table).reset_index(drop=True).map(_scalar)
    except (ValueError, TypeError, AttributeError):  # what pandas raises at what is no table
        raise TableError("not a table: give the columns `image` and `label`, equally long") from None
    for column in table.columns:
        if column not in COLUMNS:
            raise TableError(f"unknown column {column!r}: the table has `image` and `label`")
        if list(table.columns).count(column) > 1:
            raise TableError(f"column `{column}` is there more than once")
    if "image" not in table.columns:
        raise TableError("no column `image`: the table has `image` and `label`")
    if "label" not in table.columns:
        raise TableError(
            "no column `label`: give the support set's rows a class name, and null to the others"
        )
    unlabelled = table["label"].isna()
    if unlabelled.all():
        raise TableError("no support set: no row has a label")
    if not unlabelled.any():
        raise TableError("nothing to classify: every row has a label; leave it null where you want an answer")
    for number, label in table["label"][~unlabelled].items():
        if not isinstance(label, str):
            raise TableError(f"row {number}: label must be the name of a class, text, not {_kind(label)}")
        if not label.strip():
            raise TableError(
                f"row {number}: label is empty; name the class, or leave it null where you want an answer"
            )
    return table[~unlabelled], table[unlabelled]


def _scalar(value: Any) -> Any:
    """A value of the table out of the array that MLflow's JSON formats ``inputs`` and ``instances`` make."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _bytes(image: Any) -> bytes:
    """A picture file's bytes out of the table, where JSON and CSV carry them as base64."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        try:
            return base64.b64decode("".join(image.split()), validate=True)
        except ValueError:
            raise ValueError("text, but not the base64 of a picture file") from None
    raise ValueError(f"{_kind(image)}: give the bytes of a picture file, or their base64")


def _kind(value: Any) -> str:
    return "null" if np.ndim(value) == 0 and pd.isna(value) else type(value).__name__


mlflow.models.set_model(FewShotModel())
