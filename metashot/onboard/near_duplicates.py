"""Near-duplicate pictures: found by difference hashes, confirmed by thumbnails."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = (18, 16)  # width and height
BITS = 3  # of 64 in which hashes of near duplicates may differ
DIFFERENCE = 0.1  # mean difference of their thumbnails, as a share of the contrast (standard deviation)
PLAIN = 10  # contrast, of 255 levels, below which a thumbnail shows too little to compare
WINDOW = 32  # following pictures, among those with similar hashes, that each is compared with
PART = 10_000  # pairs whose thumbnails are in memory at once
BLOCKS = ((0, 11), (11, 11), (22, 11), (33, 11), (44, 10), (54, 10))  # first bit and length


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Difference hashes ``[M]`` of thumbnails ``[M, 16, 18, 3]``: in 8x9 cells, is the next one brighter?"""
    grey = thumbnails.reshape(-1, 8, 2, 9, 2, 3).mean((2, 4, 5), dtype=np.float32)
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def find(hashed: NDArray[np.uint64], thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs ``[P, 2]`` of near duplicates, as row numbers, the smaller first, sorted.

    Hashes that differ in at most three bits agree in at least three of six blocks. For each choice of three
    blocks, hashes are sorted by them, and neighbours are compared (Manku, Jain and Das Sarma 2007, "Detecting
    near-duplicates for web crawling"), in O(M log M). Of more than `WINDOW` pictures that agree in a choice,
    only those with the most similar hashes and brightness are compared. Pictures of little contrast, such as
    a stroke on a page, have no near duplicates.

    Args:
        hashed: ``[M]``, see `hashes`.
        thumbnails: ``[M, ...]`` uint8.
    """
    rows, flat = len(hashed), thumbnails.reshape(len(hashed), -1)
    brightness, contrast = flat.mean(1), flat.std(1)
    encoded_pairs = np.empty(0, np.int64)  # first row * rows + second row
    for chosen in combinations(BLOCKS, len(BLOCKS) - BITS):
        mask = np.uint64(sum(((1 << length) - 1) << first for first, length in chosen))
        order = np.lexsort((brightness, hashed & ~mask, hashed & mask))
        ordered, key = hashed[order], hashed[order] & mask
        similar = []
        for step in range(1, min(WINDOW, rows - 1) + 1):
            same_key = key[step:] == key[:-step]
            if not same_key.any():
                break
            (place,) = (same_key & (np.bitwise_count(ordered[step:] ^ ordered[:-step]) <= BITS)).nonzero()
            one, other = order[place], order[place + step]
            similar.append(np.minimum(one, other) * rows + np.maximum(one, other))
        encoded_pairs = np.unique(np.concatenate([encoded_pairs, *similar]))
    pairs = np.stack(np.divmod(encoded_pairs, max(1, rows)), axis=1)
    pairs = pairs[contrast[pairs[:, 0]] >= PLAIN]
    parts = [
        part[
            np.abs(flat[part[:, 0]].astype(np.int16) - flat[part[:, 1]]).mean(1)
            <= DIFFERENCE * contrast[part[:, 0]]
        ]
        for part in np.split(pairs, range(PART, len(pairs), PART))
    ]
    return np.concatenate(parts)
