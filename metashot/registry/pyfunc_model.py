"""A registered model: MLflow imports this module to load it, so nothing is pickled.

One table is one few-shot task. Rows with a ``label`` are the support set; rows whose label is null are
answered, in their order, with the most probable class, its probability and the probabilities of all classes.
A plain call and ``mlflow models serve`` give the same answers and the same errors: MLflow hands the table
over as it came, and all of it is checked here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

CHUNK = 250  # samples in memory at once, where each is answered by itself
TOGETHER = 1000  # samples in memory at once, where a method needs them together: some 400 MB at 28x28


class TableError(MlflowException):  # type: ignore[misc]
    """A fault of a table, in one line. MLflow's server answers status 400 with it as ``message``."""

    def __init__(self, message: str) -> None:
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    def serialize_as_json(self) -> str:
        """The body of the answer: the line alone, without the print of the table that the server adds."""
        self.message = str(self)
        body: str = super().serialize_as_json()
        return body


def _load_pyfunc(path: str) -> "FewShotModel":
    """MLflow's entry point: load the model from its two files in the folder ``path``."""
    return FewShotModel(Path(path))


class FewShotModel:
    """A trained few-shot method behind MLflow's predict.

    Args:
        folder: Of model.safetensors and model.json.

    Raises:
        MetashotError: They cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from metashot.data.kinds import KINDS, Encoded
        from metashot.learning.models import methods, runtime

        self.device = runtime.best_device()
        self.method = methods.load(folder, self.device)
        self.form = self.method.problem.form
        self.kind = KINDS[self.form.kind]
        self.column = self.kind.USE.column
        if isinstance(self.kind, Encoded) and (folder / "encoder").is_dir():
            self.kind.place(folder / "encoder")  # else it is where METASHOT_ENCODER says

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Answer the unlabelled rows.

        Samples that do not depend on each other are embedded and answered in chunks, so memory stays
        bounded and the other queries of a table move an answer by no more than rounding. MAML and Reptile
        adapt to all labelled rows at once. A transductive model (``query_norm: query``) needs all queries at
        once too: each answer depends on every query, so chunks would be other tasks with other answers. What
        is needed at once is never divided. Where it exceeds 1,000 rows the table is refused, and whether to
        divide it is left to the caller.

        Args:
            model_input: ``label`` (class name, as text or a number, or null) and the samples: ``image``
                (bytes of a PNG, JPEG, BMP or WebP file, or the same in base64, as JSON and CSV carry it),
                ``sound`` (of a WAV or FLAC file, likewise), ``series`` (lists ``[channels][time]`` of
                numbers), ``vector`` (a list of numbers) or ``text``, by what the model was trained on. A
                table, or what pandas makes one of.

        Returns:
            A row for each unlabelled row, in order: ``label``, ``probability``, ``probabilities`` (by class).

        Raises:
            TableError: What is wrong with the table, in one line. Rows are counted from 0.
        """
        import torch

        support, queries = _rows(model_input, self.column)
        classes = {name: number for number, name in enumerate(sorted(set(support["label"])))}
        if len(classes) < 2:
            raise TableError(
                f"every labelled row says {min(classes)!r}: few-shot classification needs two classes"
            )
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

        from metashot.learning.models.methods.base import EmbeddingMethod

        method = self.method
        if isinstance(method, EmbeddingMethod):
            embedded = torch.cat([method.embed(part) for part in self._samples(support, CHUNK)], dim=1)

            def answer(samples: torch.Tensor) -> torch.Tensor:
                return method.classify(embedded, labels, method.embed(samples), n_way).softmax(-1)
        else:
            together = len(support) + (len(queries) if method.transductive else 0)
            if together > TOGETHER:
                which = "all rows of a table" if method.transductive else "all labelled rows"
                raise TableError(
                    f"this model needs {which} at once, at most {TOGETHER:,}: here are {together:,}"
                )
            (shown,) = self._samples(support, len(support))

            def answer(samples: torch.Tensor) -> torch.Tensor:
                return method.predict(shown, labels, samples, n_way)

        size = len(queries) if method.transductive else CHUNK
        return torch.cat([answer(part) for part in self._samples(queries, size)], dim=1)[0]

    def _samples(self, rows: pd.DataFrame, size: int) -> Iterator[Any]:
        """The rows' samples, ``size`` at a time: ``[1, M, *shape]``."""
        import torch

        from metashot.data.kinds import INFINITE, arrays
        from metashot.errors import MetashotError

        for start in range(0, len(rows), size):
            decoded, part = [], rows[self.column].iloc[start : start + size]
            for number, value in part.items():
                try:
                    decoded.append(self.kind.served(value, self.form))
                except ValueError as error:
                    raise TableError(f"row {number}: {self.column} is {error}") from None
                except MetashotError as error:
                    raise TableError(str(error)) from None
            try:
                samples, infinite = arrays(self.kind, decoded, self.form)
            except MetashotError as error:  # as where the encoder is not here
                raise TableError(str(error)) from None
            if infinite:
                raise TableError(f"row {part.index[infinite[0]]}: {self.column} is {INFINITE}")
            yield torch.from_numpy(samples)[None].to(self.device)


def _rows(table: Any, samples: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into labelled and unlabelled rows, numbered from 0."""
    try:
        table = pd.DataFrame(table).reset_index(drop=True).map(_scalar)
    except (ValueError, TypeError, AttributeError):  # what pandas raises at what is not a table
        raise TableError(f"not a table: give the columns `{samples}` and `label`, equally long") from None
    for column in table.columns:
        if column not in (samples, "label"):
            raise TableError(f"unknown column {column!r}: the table has `{samples}` and `label`")
        if list(table.columns).count(column) > 1:
            raise TableError(f"column `{column}` is there more than once")
    if samples not in table.columns:
        raise TableError(f"no column `{samples}`: the table has `{samples}` and `label`")
    if "label" not in table.columns:
        raise TableError(
            "no column `label`: give the support set's rows a class name, and null to the others"
        )
    unlabelled = table["label"].isna()
    if unlabelled.all():
        raise TableError("no support set: no row has a label")
    if not unlabelled.any():
        raise TableError("nothing to classify: every row has a label; leave it null where you want an answer")
    table["label"] = [_label(number, label) for number, label in table["label"].items()]
    return table[~unlabelled], table[unlabelled]


def _label(number: Any, value: Any) -> str:
    """The class that a row of the table names; empty where it names none."""
    from metashot.data import label_of
    from metashot.data.kinds.base import described

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    try:
        name = label_of(value)
    except ValueError as error:
        raise TableError(
            f"row {number}: label must be the name of a class, not {described(value)}: {error}"
        ) from None
    if not name:
        raise TableError(
            f"row {number}: label is empty; name the class, or leave it null where you want an answer"
        )
    return name


def _scalar(value: Any) -> Any:
    """A value of the table out of the array that MLflow's JSON formats ``inputs`` and ``instances`` make."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
