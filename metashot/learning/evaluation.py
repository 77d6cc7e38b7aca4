"""Count correct answers in frozen episodes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from metashot.data.store import Streamed
from metashot.learning.models.episodes import Manifest, scaled
from metashot.learning.models.methods.base import EmbeddingMethod, Method

EMBED_CHUNK = 250  # samples embedded at once
EPISODE_CHUNK = 100  # episodes classified at once, at most
CHUNK_BYTES = 1 << 28  # of their samples or embeddings, at most


def correct_queries(method: Method, samples: Tensor | Streamed, manifest: Manifest) -> np.ndarray:
    """Count the correctly classified queries of each episode: ``[E]`` int64, of ``manifest.queries``.

    Args:
        method: Evaluated in evaluation mode; its own mode is restored.
        samples: ``[M, *shape]`` of the manifest's split, on the method's device.
        manifest: E episodes.
    """
    return correct_in_each(method, samples, [manifest])[0]


@torch.no_grad()
def correct_in_each(
    method: Method, samples: Tensor | Streamed, manifests: Sequence[Manifest]
) -> list[np.ndarray]:
    """As `correct_queries`, for several manifests of one split; each sample is embedded only once."""
    was_training = method.training
    method.eval()
    source = embedded(method, samples, manifests) if isinstance(method, EmbeddingMethod) else samples
    counts = []
    for manifest in manifests:
        correct = [
            (scores.argmax(-1) == labels).sum(1).cpu() for scores, labels in answers(method, source, manifest)
        ]
        counts.append(torch.cat(correct).numpy())
    method.train(was_training)
    return counts


def embedded(method: EmbeddingMethod, samples: Tensor | Streamed, manifests: Sequence[Manifest]) -> Tensor:
    """Embeddings ``[M, D]``, filled for the samples that occur in an episode, on which they do not depend."""
    rows = np.unique(np.concatenate([part.ravel() for m in manifests for part in (m.support, m.query)]))
    used = torch.from_numpy(rows).to(samples.device)
    chunks = [method.embed(scaled(samples[part])) for part in torch.split(used, EMBED_CHUNK)]
    source = chunks[0].new_empty(len(samples), chunks[0].shape[1])
    source[used] = torch.cat(chunks)
    return source


def answers(method: Method, source: Tensor | Streamed, manifest: Manifest) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the scores ``[B, M, N]`` and labels ``[B, M]`` of the queries of some episodes at a time.

    Args:
        method: In evaluation mode.
        source: What the episodes consist of: embeddings for an `EmbeddingMethod`, else samples.
        manifest: The episodes.
    """
    classify = method.classify if isinstance(method, EmbeddingMethod) else method.predict
    row = source[torch.zeros(1, dtype=torch.int64, device=source.device)]
    samples = manifest.n_way * (manifest.k_shot + manifest.n_query)
    size = max(1, min(EPISODE_CHUNK, CHUNK_BYTES // (samples * row.numel() * 4)))
    for start in range(0, len(manifest), size):
        episodes = manifest.gather(source, slice(start, start + size))
        scores = classify(episodes.support, episodes.support_labels, episodes.query, episodes.n_way)
        yield scores, episodes.query_labels
