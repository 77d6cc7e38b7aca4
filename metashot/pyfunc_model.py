"""A registered model: MLflow runs this file to build it ("models from code"), so nothing is pickled.

One table is one few-shot task. Rows with a ``label`` are the support set; rows whose label is null are
answered, in their order, with the most probable class, its probability and the probabilities of all classes.
"""

import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

COLUMNS = ("image", "label")


def pixels(encoded: bytes, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Decode a picture to ``[C, H, W]`` in [0, 1], prepared as the training data was.

    Models with one channel read drawings: ink is 1 on a background of 0. A drawing whose border is mostly
    lighter than mid-grey is dark ink on light paper, and is inverted; light on dark is taken as it is.
    Transparent parts are paper, white.

    Raises:
        ValueError: The bytes are not a picture.
    """
    try:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        picture = picture.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable picture ({str(error).splitlines()[0]})") from None
    if channels == 1:
        drawing = np.asarray(picture)
        border = np.concatenate([drawing[0], drawing[-1], drawing[:, 0], drawing[:, -1]])
        if np.median(border) > 127:
            picture = ImageOps.invert(picture)
    scaled = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), np.float32)
    return scaled.reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)


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

        Args:
            context: Not used.
            model_input: ``image`` (bytes of a PNG or JPEG file) and ``label`` (class name, or null).
            params: Not used.

        Returns:
            A row for each unlabelled row, in order: ``label``, ``probability``, ``probabilities`` (by class).

        Raises:
            ValueError: What is wrong with the table, in one line.
        """
        import torch

        from metashot.errors import MetashotError

        support, queries = _rows(model_input)
        classes = sorted({str(label) for label in support["label"]})
        if len(classes) < 2:
            raise ValueError(
                f"every labelled row says {classes[0]!r}: few-shot classification needs two classes"
            )
        try:
            self.method.check_setting(len(classes))
        except MetashotError as error:
            raise ValueError(str(error)) from None
        labels = [classes.index(str(label)) for label in support["label"]]
        with torch.no_grad():
            probabilities = self.method.predict(
                self._tensor(support),
                torch.tensor([labels], device=self.device),
                self._tensor(queries),
                len(classes),
            )
        answers = probabilities[0].double().cpu().numpy()
        return pd.DataFrame(
            {
                "label": [classes[best] for best in answers.argmax(1)],
                "probability": answers.max(1),
                "probabilities": [dict(zip(classes, map(float, row), strict=True)) for row in answers],
            }
        )

    def _tensor(self, rows: pd.DataFrame) -> Any:
        import torch

        decoded = []
        for number, encoded in rows["image"].items():
            if not isinstance(encoded, bytes):
                kind = type(encoded).__name__
                raise ValueError(f"row {number}: image must be the bytes of a picture file, not {kind}")  # noqa: TRY004
            try:
                decoded.append(pixels(encoded, *self.image))
            except ValueError as error:
                raise ValueError(f"row {number}: image is {error}") from None
        return torch.from_numpy(np.stack(decoded))[None].to(self.device)


def _rows(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into labelled and unlabelled rows, numbered from 0."""
    unknown = [str(column) for column in table.columns if column not in COLUMNS]
    if unknown:
        raise ValueError(f"unknown column {unknown[0]!r}: the table has `image` and `label`")
    if "image" not in table.columns:
        raise ValueError("no column `image`: the table has `image` and `label`")
    if "label" not in table.columns:
        raise ValueError(
            "no column `label`: give the support set's rows a class name, and null to the others"
        )
    table = table.reset_index(drop=True)
    unlabelled = table["label"].isna()
    if unlabelled.all():
        raise ValueError("no support set: no row has a label")
    if not unlabelled.any():
        raise ValueError("nothing to classify: every row has a label; leave it null where you want an answer")
    return table[~unlabelled], table[unlabelled]


mlflow.models.set_model(FewShotModel())
