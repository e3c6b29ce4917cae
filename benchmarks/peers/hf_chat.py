"""transformers by the way that LangChain offers: ChatHuggingFace over a pipeline."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from benchmarks.peers.libraries import quiet_transformers
from rttc_graph.run.prompts import SYSTEM_PROMPT


class HfChat:
    """A chat model that answers one call after the other, as it does for callers at once.

    Args:
        model: Folder of the model.
        max_tokens: Longest answer.
        temperature: 0 is greedy; else the whole vocabulary is sampled from, as ours does.
    """

    def __init__(self, model: Path, *, max_tokens: int, temperature: float = 0.0) -> None:
        quiet_transformers()
        torch.set_num_threads(1)
        weights: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        # Set on the configuration, since transformers warns of settings given with every call.
        config = copy.deepcopy(weights.generation_config)
        config.max_new_tokens, config.max_length = max_tokens, None
        config.do_sample = temperature > 0
        if temperature > 0:
            config.temperature, config.top_k, config.top_p = temperature, 0, 1.0
        weights.generation_config = config
        made: Any = pipeline(
            "text-generation",
            model=weights.train(False),
            tokenizer=self._tokenizer,
            return_full_text=False,
        )
        self._chat = ChatHuggingFace(
            llm=HuggingFacePipeline(pipeline=made), tokenizer=self._tokenizer
        )

    def answer(self, question: str) -> str:
        """Return an answer to the question behind our system prompt."""
        messages: list[BaseMessage] = [
            SystemMessage(SYSTEM_PROMPT),
            HumanMessage(question),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(self._chat.invoke(messages).content)

    def tokens(self, text: str) -> int:
        """Return the length of an answer."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
