"""Folders with random models of a few thousand weights, made in a test's own folder."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    new_network,
    save_weights,
)
from rttc_graph.integrations.rewards.trained.reward_spec import Backbone, LogitMap, RewardSpec

SPECIALS = ("<pad>", "<bos>", "<eos>")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
)


def byte_tokenizer(*, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes, so that every script has some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIALS, *alphabet))}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=template,
    )


def _llama(*, pad_id: int | None, labels: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=pad_id,
        id2label={number: f"LABEL_{number}" for number in range(labels)},
    )


def classifier_folder(
    folder: Path, *, pad_id: int | None = 0, labels: int = 1, template: str | None = TEMPLATE
) -> Path:
    """A reward model in the form of Skywork's: Llama with a one-number head."""
    torch.manual_seed(0)
    config = _llama(pad_id=pad_id, labels=labels)
    model = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]  # as above
    torch.nn.init.normal_(model.score.weight, std=1.0)  # so that answers differ visibly
    model.save_pretrained(folder)
    byte_tokenizer(template=template).save_pretrained(folder)
    return folder


QWEN3_TEMPLATE = (
    "{% for m in messages %}{{ '<bos>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<eos>\n' }}{% endfor %}"
)
"""As Qwen3 writes a conversation that ends with an answer: empty thoughts before its text."""


def qwen3_classifier_folder(folder: Path) -> Path:
    """A reward model in the form of Skywork-Reward-V2-Qwen3."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=512,
        pad_token_id=0,
        id2label={0: "LABEL_0"},
    )
    model = Qwen3ForSequenceClassification(config)  # type: ignore[no-untyped-call]  # as above
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(folder)
    byte_tokenizer(template=QWEN3_TEMPLATE).save_pretrained(folder)
    return folder


def causal_folder(folder: Path) -> Path:
    """A language model, which has no score head."""
    LlamaForCausalLM(_llama(pad_id=0, labels=1)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _bert(folder: Path, *, labels: int = 2) -> BertConfig:
    """Save a tokenizer of single letters and return the configuration that fits it."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789?.,()*=-"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [*letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label={number: f"LABEL_{number}" for number in range(labels)},
    )


def bert_classifier_folder(folder: Path) -> Path:
    """A reward model that reads plain pairs with token types."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(_bert(folder, labels=1))
    torch.nn.init.normal_(model.bert.embeddings.token_type_embeddings.weight, std=1.0)
    model.save_pretrained(folder)
    return folder


def sentence_folder(folder: Path, *, seed: int = 0) -> Path:
    """A sentence-transformers model: BERT over single letters, mean pooling."""
    raw = folder / "raw"
    config = _bert(raw)
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(raw)
    modules: list[torch.nn.Module] = [Transformer(str(raw), max_seq_length=64), Pooling(32)]
    SentenceTransformer(modules=modules).save(str(folder / "model"))
    return folder / "model"


def encoder_folder(folder: Path) -> Path:
    """A BERT without a head, as the backbone of a reward model."""
    torch.manual_seed(0)
    BertModel(_bert(folder)).save_pretrained(folder)
    return folder


def trained_reward_folder(folder: Path, base: RewardBase, backbone: Backbone) -> Path:
    """A reward model on a backbone, with random weights of its own and no training behind it."""
    torch.manual_seed(1)
    spec = RewardSpec(
        name=f"tiny-{backbone}",
        backbone=backbone,
        base="tiny",
        base_fingerprint=base.fingerprint,
        rank=2,
        alpha=4.0,
        hidden=8,
        max_tokens=48,
        with_signals=LogitMap(bias=0.5, logit=1.0, signals=(0.5, -1.0)),
    )
    network = new_network(base, spec)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder)
    spec.write(folder)
    return folder
