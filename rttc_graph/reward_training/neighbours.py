"""Nearest solved questions, all in memory: no database is needed to train a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from rttc_graph.evaluation.scorers import normalised
from rttc_graph.protocols import Embedder, NewSample

_SPARE = 16
"""Rows looked at beyond those wanted, since a question's own copies among them are left out."""

_BLOCK = 512
"""Questions compared with all samples at once; 512 times 10,000 similarities have 20 MB."""


async def nearest_samples(
    embedder: Embedder, asked: Sequence[NewSample], samples: Sequence[NewSample], *, k: int
) -> list[list[NewSample]]:
    """Return the `k` samples of the same domain nearest to each question, nearest first.

    Samples with the question's own text are left out.
    """
    everyone = list(dict.fromkeys(row.question for row in (*samples, *asked)))
    place = {text: index for index, text in enumerate(everyone)}
    table = torch.tensor(await embedder.embed(everyone))  # [N, D]
    known = table[[place[s.question] for s in samples]]  # [S, D]
    vectors = table[[place[q.question] for q in asked]]  # [Q, D]
    domains = sorted({s.domain for s in samples})
    number = {domain: index for index, domain in enumerate(domains)}
    sample_domains = torch.tensor([number[s.domain] for s in samples])  # [S]
    texts = [normalised(s.question) for s in samples]
    found: list[list[NewSample]] = []
    for first in range(0, len(asked), _BLOCK):
        block = asked[first : first + _BLOCK]
        similarity = vectors[first : first + _BLOCK] @ known.T  # [B, S]
        own = torch.tensor([number.get(q.domain, -1) for q in block])  # [B]
        similarity[own[:, None] != sample_domains[None, :]] = -2.0
        best = similarity.topk(min(k + _SPARE, len(samples)))
        for row, question in enumerate(block):
            text = normalised(question.question)
            places = cast("list[int]", best.indices[row].tolist())
            values = cast("list[float]", best.values[row].tolist())
            picks = zip(places, values, strict=True)
            near = [samples[i] for i, value in picks if value > -2.0 and texts[i] != text]
            found.append(near[:k])
    return found
