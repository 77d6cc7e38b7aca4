"""Pictures that are nearly the same: found by a difference hash, confirmed by their thumbnails."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (18, 16)  # width and height
BITS = 3  # of 64 that hashes of near duplicates may differ in
APART = 0.1  # of a thumbnail's contrast (standard deviation) that they may differ by on average
PLAIN = 10  # levels of 255: a thumbnail of less contrast shows too little to say
WINDOW = 32  # of pictures with alike hashes each is held against so many that follow it
PART = 10_000  # pairs whose thumbnails are in memory at once
BLOCKS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # first bit and length


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Difference hashes ``[M]`` of thumbnails ``[M, 16, 18, 3]``: 8x9 parts, darker than the next or not."""
    grey = thumbnails.reshape(-1, 8, 2, 9, 2, 3).mean((2, 4, 5), dtype=np.float32)
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near(hashed: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs ``[P, 2]`` of near duplicates, as rows, the smaller first, sorted.

    Hashes that differ in at most three bits agree in three of six blocks, whichever these are: for each
    choice of three the hashes are sorted by them, and neighbours are compared (Manku, Jain and Das Sarma
    2007, "Detecting near-duplicates for web crawling"). The work grows as M log M. Of more than `WINDOW`
    pictures that agree in a choice not every pair is looked at: those with the most similar hashes and
    brightness are. Pictures that are all but plain, such as a stroke on a page, have no near duplicates.

    Args:
        hashed: Of M pictures, see `hashes`.
        thumbnails: ``[M, ...]`` uint8.
    """
    rows, flat = len(hashed), thumbnails.reshape(len(hashed), -1)
    brightness, contrast = flat.mean(1), flat.std(1)
    found = np.empty(0, np.int64)
    for chosen in combinations(BLOCKS, len(BLOCKS) - BITS):
        mask = np.uint64(sum(((1 << length) - 1) << first for first, length in chosen))
        order = np.lexsort((brightness, hashed & ~mask, hashed & mask))
        ordered, key = hashed[order], hashed[order] & mask
        alike = []
        for step in range(1, min(WINDOW, rows - 1) + 1):
            same = key[step:] == key[:-step]
            if not same.any():
                break
            (at,) = (same & (np.bitwise_count(ordered[step:] ^ ordered[:-step]) <= BITS)).nonzero()
            one, other = order[at], order[at + step]
            alike.append(np.minimum(one, other) * rows + np.maximum(one, other))
        found = np.unique(np.concatenate([found, *alike]))
    pairs = np.stack(np.divmod(found, max(1, rows)), axis=1)
    pairs = pairs[contrast[pairs[:, 0]] >= PLAIN]
    parts = [
        part[
            np.abs(flat[part[:, 0]].astype(np.int16) - flat[part[:, 1]]).mean(1)
            <= APART * contrast[part[:, 0]]
        ]
        for part in np.split(pairs, range(PART, len(pairs), PART))
    ]
    return np.concatenate(parts)
