"""From frozen episodes to accuracy with an interval."""

import numpy as np
import torch
from torch import Tensor

from metashot.episodes import Manifest
from metashot.methods.base import EmbeddingMethod, Method

EMBED_CHUNK = 1000  # images embedded at once
EPISODE_CHUNK = 100  # episodes classified at once


@torch.no_grad()
def correct_queries(method: Method, images: Tensor, manifest: Manifest) -> np.ndarray:
    """Correctly answered queries of each episode: ``[E]`` int64, of ``manifest.queries``.

    Args:
        method: Put into evaluation mode and back.
        images: uint8 images ``[M, C, H, W]`` of the manifest's split, on the method's device.
        manifest: E episodes.
    """
    was_training = method.training
    method.eval()
    source: Tensor = images
    if isinstance(method, EmbeddingMethod):
        # Embeddings do not depend on the episode: make each once, however many episodes it is in.
        used = torch.from_numpy(np.unique(np.concatenate([manifest.support.ravel(), manifest.query.ravel()])))
        chunks = [
            method.embed(images[rows.to(images.device)].float().div_(255))
            for rows in torch.split(used, EMBED_CHUNK)
        ]
        source = chunks[0].new_empty(len(images), chunks[0].shape[1])
        source[used.to(images.device)] = torch.cat(chunks)
    correct = []
    for start in range(0, len(manifest), EPISODE_CHUNK):
        episodes = manifest.gather(source, slice(start, start + EPISODE_CHUNK))
        answer = method.classify if isinstance(method, EmbeddingMethod) else method.predict
        scores = answer(episodes.support, episodes.support_labels, episodes.query, episodes.n_way)
        correct.append((scores.argmax(-1) == episodes.query_labels).sum(1).cpu())
    method.train(was_training)
    return torch.cat(correct).numpy()


def mean_and_interval(accuracy: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, ``1.96 s / sqrt(E)``, over the accuracies ``[E]``."""
    return float(accuracy.mean()), float(1.96 * accuracy.std(ddof=1) / np.sqrt(len(accuracy)))
