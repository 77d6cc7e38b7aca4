"""Archives of pictures to the Parquet store, the same way for every source."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from metashot.data import archive, store
from metashot.data.source import Params, Source
from metashot.errors import MetashotError


def preprocess(source: Source, params: Params, raw: Path, target: Path) -> None:
    """Read the archives of `source` in `raw`, scale and invert the pictures, and write `target`.

    Pictures are scaled to image_size × image_size by an antialiasing filter (Lanczos); ink becomes 255.

    Raises MetashotError for what `archive.pictures` refuses, for a class of fewer than two pictures, and for
    a picture that two splits share: the training data would hold a piece of the test data.
    """
    size = (params.image_size, params.image_size)
    images, keys = [], []
    seen: dict[bytes, store.Key] = {}
    for name in source.ARCHIVES:
        members = tqdm(archive.pictures(raw / name), name, unit=" images", leave=False, disable=None)
        for superclass, class_, file, picture in members:
            split = source.split_of(params, superclass, class_)
            key = store.Key(split, superclass, class_, file)
            first = seen.setdefault(hashlib.sha256(picture.tobytes()).digest(), key)
            if first.split != split:
                raise MetashotError(
                    f"{raw / name}: {'/'.join(key[1:])} ({split}) is the same picture as "
                    f"{'/'.join(first[1:])} ({first.split}); one of them has to go"
                )
            keys.append(key)
            images.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    counts = Counter(key[:3] for key in keys)
    for (_, superclass, class_), count in sorted(counts.items()):
        if count < 2:
            raise MetashotError(f"{raw}: class {superclass}/{class_} has one picture; episodes need two")
    if missing := {"train", "val", "test"} - {key.split for key in keys}:
        raise MetashotError(
            f"{raw}: no pictures for split {', '.join(sorted(missing))}; it needs more classes"
        )
    pixels = 255 - np.stack(images)[..., None]
    store.write(target, pixels, keys, rotations=params.rotations, about=source.ABOUT)
