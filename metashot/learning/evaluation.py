"""Count correct answers in frozen episodes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metashot.data.store import Streamed
from metashot.learning.models.episodes import Manifest, scaled
from metashot.learning.models.methods.base import EmbeddingMethod, Method

EMBED_CHUNK = 250  # samples embedded at once
EPISODE_CHUNK = 100  # episodes classified at once, at most
CHUNK_BYTES = 1 << 28  # of their samples or embeddings, at most
EMBEDDED_BYTES = 1 << 29  # of the embeddings of a split, at most; larger ones are made again for each episode


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
    """As `correct_queries`, for several manifests of one split; see `Answering`."""
    was_training = method.training
    answering = Answering.of(method.eval(), samples, manifests)
    counts = []
    for manifest in manifests:
        correct = [
            (scores.argmax(-1) == labels).sum(1).cpu() for scores, labels in answering.scores(manifest)
        ]
        counts.append(torch.cat(correct).numpy())
    method.train(was_training)
    return counts


@dataclass(frozen=True)
class Answering:
    """A method that answers episodes of one split.

    An `EmbeddingMethod` embeds each sample only once, however many episodes it is in, unless all embeddings
    together are larger than `EMBEDDED_BYTES`.

    Attributes:
        method: In evaluation mode.
        source: What episodes are gathered from: embeddings ``[M, D]``, or samples.
        answer: Scores of the queries, given support, labels, queries and N, of what is gathered.
        bytes_each: That a sample takes while it is answered: itself or its embedding, whichever is larger.
    """

    method: Method
    source: Tensor | Streamed
    answer: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    bytes_each: int

    @classmethod
    def of(cls, method: Method, samples: Tensor | Streamed, manifests: Sequence[Manifest]) -> "Answering":
        """Embed the samples that occur in some episodes, where that pays."""
        if not isinstance(method, EmbeddingMethod):
            first = scaled(samples[torch.zeros(1, dtype=torch.int64, device=samples.device)])
            return cls(method, samples, method.predict, first[0].nbytes)
        rows = np.unique(np.concatenate([part.ravel() for m in manifests for part in (m.support, m.query)]))
        used = torch.from_numpy(rows).to(samples.device)
        chunks = torch.split(used, EMBED_CHUNK)
        chunk = scaled(samples[chunks[0]])
        first = method.embed(chunk)
        bytes_each = first[0].nbytes
        if bytes_each * len(samples) > EMBEDDED_BYTES:

            def answer(support: Tensor, support_labels: Tensor, query: Tensor, n_way: int) -> Tensor:
                return method.classify(method.embed(support), support_labels, method.embed(query), n_way)

            return cls(method, samples, answer, max(bytes_each, chunk[0].nbytes))
        source = first.new_empty(len(samples), first.shape[1])
        source[used] = torch.cat([first, *(method.embed(scaled(samples[part])) for part in chunks[1:])])
        return cls(method, source, method.classify, bytes_each)

    def scores(self, manifest: Manifest) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scores ``[B, M, N]`` and labels ``[B, M]`` of the queries of some episodes at a time."""
        samples = manifest.n_way * (manifest.k_shot + manifest.n_query)
        size = max(1, min(EPISODE_CHUNK, CHUNK_BYTES // (samples * self.bytes_each)))
        for start in range(0, len(manifest), size):
            episodes = manifest.gather(self.source, slice(start, start + size))
            scores = self.answer(episodes.support, episodes.support_labels, episodes.query, episodes.n_way)
            yield scores, episodes.query_labels
