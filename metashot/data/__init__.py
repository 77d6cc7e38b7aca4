"""Images in, tensors out: sources, the Parquet store."""

from typing import Literal

Split = Literal["train", "val", "test"]
