"""From frozen episodes to correct answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metashot.episodes import Manifest
from metashot.methods.base import EmbeddingMethod, Method

EMBED_CHUNK = 250  # images embedded at once
EPISODE_CHUNK = 100  # episodes classified at once


def correct_queries(method: Method, images: Tensor, manifest: Manifest) -> np.ndarray:
    """Correctly answered queries of each episode: ``[E]`` int64, of ``manifest.queries``.

    Args:
        method: Put into evaluation mode and back.
        images: uint8 images ``[M, C, H, W]`` of the manifest's split, on the method's device.
        manifest: E episodes.
    """
    return correct_in_each(method, images, [manifest])[0]


@torch.no_grad()
def correct_in_each(method: Method, images: Tensor, manifests: Sequence[Manifest]) -> list[np.ndarray]:
    """The same for several manifests of one split, an image embedded once for all of them."""
    was_training = method.training
    method.eval()
    source = _embedded(method, images, manifests) if isinstance(method, EmbeddingMethod) else images
    counts = [_correct(method, source, manifest) for manifest in manifests]
    method.train(was_training)
    return counts


def _embedded(method: EmbeddingMethod, images: Tensor, manifests: Sequence[Manifest]) -> Tensor:
    """Embeddings ``[M, D]`` of the images that are in an episode; an embedding depends on no episode."""
    rows = np.unique(np.concatenate([part.ravel() for m in manifests for part in (m.support, m.query)]))
    used = torch.from_numpy(rows).to(images.device)
    chunks = [method.embed(images[part].float().div_(255)) for part in torch.split(used, EMBED_CHUNK)]
    source = chunks[0].new_empty(len(images), chunks[0].shape[1])
    source[used] = torch.cat(chunks)
    return source


def _correct(method: Method, source: Tensor, manifest: Manifest) -> np.ndarray:
    answer = method.classify if isinstance(method, EmbeddingMethod) else method.predict
    correct = []
    for start in range(0, len(manifest), EPISODE_CHUNK):
        episodes = manifest.gather(source, slice(start, start + EPISODE_CHUNK))
        scores = answer(episodes.support, episodes.support_labels, episodes.query, episodes.n_way)
        correct.append((scores.argmax(-1) == episodes.query_labels).sum(1).cpu())
    return torch.cat(correct).numpy()
