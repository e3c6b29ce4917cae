"""What the samples say for an answer, by the encoder as it came.

The network's own encoder was changed to match answers to questions; nearness of two questions or
two answers is what the encoder could tell before. Vectors are kept by text, so that samples that
come back, and an answer that is judged again, cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from rttc_graph.integrations.rewards.grounded.evidence import (
    MOST_SAMPLES,
    Case,
    Said,
    features_of,
    stated,
)
from rttc_graph.integrations.rewards.shorten import keep_ends
from rttc_graph.integrations.rewards.trained.echoes import without_echo
from rttc_graph.integrations.rewards.trained.reward_folder import RewardBase, Speech
from rttc_graph.integrations.rewards.trained.text_vectors import TextVectors
from rttc_graph.protocols import RewardRequest
from rttc_graph.support.identity import clean

ADDRESSED = 2.5
"""Log-odds of speaking to a judge from which a sample is no evidence. A sample that is left out by
mistake costs little, the next one speaks; one that is believed by mistake costs the answer."""

_MOST_CHARACTERS = 2_000
_MOST_TOKENS = 128
"""Read of a text, from both ends: 8 samples of full length are 2,048 tokens, 0.1 s of a core."""

LogitsOf = Callable[[Sequence[tuple[str, str]]], list[float]]
"""Questions and answers to the logits of the network that reads these alone."""


class EvidenceReader:
    """Questions with candidates to the features of the grounded head; belongs to one thread.

    Args:
        base: The encoder as it came, without the network's changes.
        speech: What it hears in a text besides its meaning.
        logits: The network.
    """

    def __init__(self, base: RewardBase, speech: Speech, logits: LogitsOf) -> None:
        self._base = base
        self._speech = speech
        self._logits = logits
        self._vectors = TextVectors(self._read)

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors [N, H] of one text or more, in order."""
        return self._vectors.of([_short(text) for text in texts])

    def features(self, asked: Sequence[tuple[str, RewardRequest]]) -> list[list[float] | None]:
        """Return the features of each question and answer; `None` where no sample is evidence.

        Args:
            asked: Questions, and candidates that come with samples.
        """
        read = [self._read_request(_short(query), request) for query, request in asked]
        pairs = [(query, said) for (query, _), (said, _) in zip(asked, read, strict=True)]
        return [
            self._features(_short(query), request, *seen, logit)
            for (query, request), seen, logit in zip(asked, read, self._logits(pairs), strict=True)
        ]

    def _read_request(self, question: str, request: RewardRequest) -> tuple[str, list[Said]]:
        """Return what the answer states, and the samples nearest first."""
        samples = request.get("samples", ())[: 2 * MOST_SAMPLES]
        pairs = [(_short(s["question"]), _short(s["answer"])) for s in samples]
        asked = self._vectors.of([question, *(q for q, _ in pairs)])
        nearness = cast("list[float]", (asked[1:] @ asked[0]).tolist())
        order = sorted(range(len(pairs)), key=lambda n: -nearness[n])
        pairs, nearness = [pairs[n] for n in order], [nearness[n] for n in order]
        own = without_echo(question, _short(request["answer"]))
        said = stated(question, own, [answer for _, answer in pairs])
        vectors = self._vectors.of([said, *(answer for _, answer in pairs)])
        answers = vectors[1:]
        addressed = cast("list[float]", self._speech.log_odds(answers)[:, 1].tolist())
        likeness = cast("list[float]", (answers @ vectors[0]).tolist())
        top = next((n for n, odds in enumerate(addressed) if odds <= ADDRESSED), 0)
        like_top = cast("list[float]", (answers @ answers[top]).tolist())
        found = [
            Said(
                question=asked_there,
                answer=answer,
                question_cosine=nearness[n],
                answer_cosine=likeness[n],
                top_cosine=like_top[n],
                is_addressed=addressed[n] > ADDRESSED,
            )
            for n, (asked_there, answer) in enumerate(pairs)
        ]
        return said, found

    def _features(
        self,
        question: str,
        request: RewardRequest,
        said: str,
        samples: list[Said],
        logit: float,
    ) -> list[float] | None:
        # Also as it was said: "I have no idea" loses its start where the question has "I have no".
        whole = _short(request["answer"])
        texts = [said, whole] if said == without_echo(question, whole) else [said]
        heard = self._speech.log_odds(self._vectors.of(texts))
        refusal, plea = cast("list[float]", heard.amax(0).tolist())
        case = Case(
            question=question,
            answer=said,
            logit=logit,
            samples=samples,
            mean_logprob=request["mean_logprob"],
            is_cut_off=request["finish_reason"] != "stop",
            refusal=refusal,
            plea=plea,
        )
        return features_of(case)

    def _read(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors [N, H] of texts: the mean of their tokens' states."""
        rows = [self._ids(text) for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self._base.pad_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = self._base.model.device
        with torch.inference_mode():
            states = self._base.model(
                input_ids=ids.to(device), attention_mask=mask.to(device)
            ).last_hidden_state.float()
            weights = mask.to(device)[:, :, None].to(states.dtype)
            mean = (states * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1).cpu()

    def _ids(self, text: str) -> list[int]:
        encoded = self._base.tokenizer(text, split_special_tokens=True, verbose=False)
        ids = cast("list[int]", encoded["input_ids"])
        most = self._base.fitting(_MOST_TOKENS)
        return ids if len(ids) <= most else [*ids[: most // 2], *ids[-(most // 2) :]]


def _short(text: str) -> str:
    return keep_ends(clean(text), _MOST_CHARACTERS)
