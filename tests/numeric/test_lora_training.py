"""Training against a plain slow loop with peft, and what it must leave untouched."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import make_tiny_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)
from transformers.models.llama.modeling_llama import LlamaMLP

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.integrations.lora.adapted import AdaptedModel
from rttc_graph.integrations.lora.examples import (
    EncodedExample,
    StepLimits,
    deal,
    encode_examples,
    pack,
)
from rttc_graph.integrations.lora.layout import AdapterLayout
from rttc_graph.integrations.lora.serialization import to_bytes
from rttc_graph.integrations.lora.training import (
    Trained,
    Watch,
    fresh_adapter,
    learning_rate_of,
    training_steps,
)
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.protocols import TrainingExample, TrainStep
from rttc_graph.settings import TttSettings

SETTINGS = TttSettings(
    rank=4,
    alpha=8.0,
    learning_rate=1e-2,
    epochs=4,
    samples_per_step=4,  # all examples
    min_steps=1,
    stop_loss=0.0,
    seed=3,
)
CPU = torch.device("cpu")
ROOMY = StepLimits(token_bytes=1.0, answer_bytes=1.0, max_bytes=2**40)
# 60 tokens of padded input to a pass: the four examples below need two passes.
TIGHT = StepLimits(token_bytes=1.0, answer_bytes=0.0, max_bytes=60)

WINDOW = 25
"""Of a model whose attention slides: one of the four examples is longer."""

PROBE = torch.tensor([[5, 9, 40, 77, 12, 3, 81], [8, 8, 30, 4, 100, 61, 7]])


def encoded() -> list[EncodedExample]:
    """Four examples of 9 to 30 tokens, the first six the same, answers of 2 to 5."""
    random = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in torch.randint(3, 200, (count,), generator=random))

    first = tokens(6)
    return [
        EncodedExample(ids=(*first, *tokens(length - 6)), answer_tokens=answer)
        for length, answer in ((12, 3), (30, 5), (9, 2), (21, 4))
    ]


@pytest.fixture
def loaded(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="float32")


@pytest.fixture
def model(loaded: LoadedModel) -> AdaptedModel:
    return AdaptedModel(loaded.model)


def tiny_gpt2() -> PreTrainedModel:
    """Has transposed weights, biases and dropout, all of which Llama lacks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        config = GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
        )
        return cast("PreTrainedModel", GPT2LMHeadModel(config).train(False))


def tiny_mistral() -> PreTrainedModel:
    """Sees no farther back than `WINDOW` tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        config = MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=WINDOW,
        )
        return cast("PreTrainedModel", MistralForCausalLM(config).train(False))


def observed(
    on_step: Callable[[TrainStep], None] = lambda step: None,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    deadline: float | None = None,
) -> Watch:
    return Watch(on_step=on_step, clock=clock, deadline=deadline)


def start(
    model: AdaptedModel,
    settings: TttSettings = SETTINGS,
    *,
    limits: StepLimits = ROOMY,
    share_prefix: bool = True,
    tree_tokens: int = 0,
    watch: Watch | None = None,
) -> Generator[None, None, Trained]:
    adapter = fresh_adapter(model.layout, settings, device=CPU)
    epoch = [
        pack(part, limits, device=CPU, share_prefix=share_prefix, tree_tokens=tree_tokens)
        for part in deal(encoded(), settings)
    ]
    return training_steps(model, adapter, epoch, settings, watch or observed())


def finish(steps: Generator[None, None, Trained]) -> Trained:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("Trained", end.value)


def train(model: AdaptedModel, settings: TttSettings = SETTINGS) -> Trained:
    return finish(start(model, settings))


def probe(forward: Callable[..., Any]) -> Tensor:
    with torch.inference_mode():
        return cast("Tensor", forward(input_ids=PROBE, use_cache=False).logits)


def digest(model: PreTrainedModel) -> str:
    """Of every weight and buffer, and of what autograd would see in them."""
    total = hashlib.sha256()
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        total.update(f"{name} {tensor.requires_grad} {tensor.grad is None}".encode())
        total.update(tensor.detach().numpy().tobytes())
    return total.hexdigest()


def plain_loop(base: PreTrainedModel, settings: TttSettings) -> tuple[list[float], list[Tensor]]:
    """Train with peft's layers, full logits, masked batches, torch's AdamW."""
    layout = AdaptedModel(base).layout
    first = fresh_adapter(layout, settings, device=CPU)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast("int", settings.alpha),
        target_modules=[target.name for target in layout.targets[first.first :]],
        task_type="CAUSAL_LM",
        fan_in_fan_out=isinstance(base, GPT2LMHeadModel),
    )
    wrapped = cast("Any", get_peft_model(base, config)).eval()
    weights: list[Tensor] = [p for p in wrapped.parameters() if p.requires_grad]
    with torch.no_grad():
        for weight, value in zip(weights, itertools.chain(*first.pairs), strict=True):
            weight.copy_(value)
    # two steps: the farthest and the second nearest, then the other two
    dealt = {4: [encoded()], 2: [encoded()[3::-2], encoded()[2::-2]]}[settings.samples_per_step]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=0.0, foreach=False
    )
    losses: list[float] = []
    for examples in dealt * settings.epochs:
        ids, mask, labels = _padded(examples)
        out = wrapped(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(out[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses, [weight.detach() for weight in weights]


def _padded(examples: Sequence[EncodedExample]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = ids.clone(), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        end = len(example.ids)
        ids[row, :end] = torch.tensor(example.ids)
        mask[row, :end] = 1
        answer = slice(end - example.answer_tokens, end)
        labels[row, answer] = ids[row, answer]
    return ids, mask, labels


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "limits", [pytest.param(ROOMY, id="one-pass"), pytest.param(TIGHT, id="several-passes")]
)
@pytest.mark.parametrize("share_prefix", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("as_trees", [True, False], ids=["trees", "rows"])
@pytest.mark.parametrize("samples_per_step", [4, 2])
@pytest.mark.parametrize("layers", [1.0, 0.5])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_losses_and_weights_are_those_of_a_plain_loop(
    limits: StepLimits,
    share_prefix: bool,
    as_trees: bool,
    samples_per_step: int,
    layers: float,
    family: str,
    tiny_model_path: Path,
) -> None:
    settings = replace(SETTINGS, samples_per_step=samples_per_step, layers=layers)

    def base() -> PreTrainedModel:
        if family != "llama":
            return tiny_gpt2() if family == "gpt2" else tiny_mistral()
        return cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(tiny_model_path))

    losses, weights = plain_loop(base(), settings)
    model = AdaptedModel(base())
    assert model.tree_tokens > 0
    trained = finish(
        start(
            model,
            settings,
            limits=limits,
            share_prefix=share_prefix,
            tree_tokens=model.tree_tokens if as_trees else 0,
        )
    )
    assert losses[-1] < losses[0] - 0.1  # the reference itself learns
    torch.testing.assert_close(
        torch.tensor(trained.losses), torch.tensor(losses), rtol=1e-4, atol=0
    )
    # Adam divides by the gradient's own size, so that rounding shows where that is near 0:
    # a weight may be off by a small part of the four steps of 0.01 that it moves.
    for ours, theirs in zip(itertools.chain(*trained.adapter.pairs), weights, strict=True):
        assert (ours - theirs).abs().mean() < 1e-4


@pytest.mark.parametrize(
    ("layers", "first"),
    [
        pytest.param(1.0, 0, id="all"),
        pytest.param(0.75, 7, id="three-of-four"),
        pytest.param(0.5, 14, id="two"),
        pytest.param(0.01, 21, id="at-least-one"),
    ],
)
def test_an_adapter_has_the_upper_layers(layers: float, first: int, tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path / "four", layers=4)
    model = AdaptedModel(load_model(path, device="cpu", dtype="auto").model)
    settings = replace(SETTINGS, layers=layers)
    made = fresh_adapter(model.layout, settings, device=CPU)
    assert (made.first, len(made.pairs)) == (first, 28 - first)  # a layer has seven targets
    assert model.layout.targets[first].name == f"model.layers.{first // 7}.self_attn.q_proj"


def test_layers_that_are_not_known_are_trained_together_or_not_at_all() -> None:
    layout = AdapterLayout(targets=(), base_name="odd", fan_in_fan_out=False)
    assert layout.first_of(1.0) == 0
    with pytest.raises(
        AdaptationError, match=r"ttt_layers=0\.5: the layers of 'odd'.* set it to 1"
    ):
        layout.first_of(0.5)


@pytest.mark.parametrize("as_trees", [True, False], ids=["trees", "rows"])
def test_layers_below_an_adapter_are_computed_once_for_each_batch(
    as_trees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny_model(tmp_path / "four", layers=4)
    model = AdaptedModel(load_model(path, device="cpu", dtype="auto").model)
    settings = replace(SETTINGS, layers=0.25, samples_per_step=2)  # two batches, four epochs
    steps = start(model, settings, share_prefix=False, tree_tokens=99 if as_trees else 0)
    computed = 0
    forward = cast("Callable[..., Tensor]", LlamaMLP.forward)

    def count(self: LlamaMLP, x: Tensor) -> Tensor:
        nonlocal computed
        computed += 1
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", count)
    finish(steps)
    assert computed == 2 * 3 + 8 * 1  # three layers for each batch, the topmost at each step


def test_several_passes_are_what_a_tight_limit_asks_for() -> None:
    batches = pack(encoded(), TIGHT, device=CPU, share_prefix=False)
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(2, 30), (2, 12)]
    assert sum(batch.tokens for batch in batches) == 12 + 30 + 9 + 21
    assert sum(batch.targets.numel() for batch in batches) == 3 + 5 + 2 + 4


def test_a_shared_prefix_counts_once_in_a_pass() -> None:
    batches = pack(encoded(), TIGHT, device=CPU, share_prefix=True)  # 6 + 2 * 24, 6 + 2 * 6
    assert [tuple(batch.prefix.shape) for batch in batches] == [(1, 6), (1, 6)]
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(2, 24), (2, 6)]
    assert sum(batch.tokens for batch in batches) == 12 + 30 + 9 + 21


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([((4, 5, 6, 7), 1), ((4, 5, 8, 9), 1)], 2, id="what-is-the-same"),
        pytest.param([((4, 5, 6, 7), 1), ((4, 5, 6, 7), 1)], 2, id="never-the-last-of-a-prompt"),
        pytest.param([((4, 5, 6, 7), 1), ((4, 5), 1)], 0, id="nor-of-the-shortest-prompt"),
        pytest.param([((4, 5), 1), ((6, 5), 1)], 0, id="nothing"),
        pytest.param([((4, 5, 6, 7), 1)], 0, id="one-example-alone"),
        pytest.param([((5,), 1), ((5, 5, 5), 1)], 0, id="an-answer-without-prompt"),
    ],
)
def test_how_much_is_shared(rows: list[tuple[tuple[int, ...], int]], expected: int) -> None:
    examples = [EncodedExample(ids=ids, answer_tokens=answer) for ids, answer in rows]
    [batch] = pack(examples, ROOMY, device=CPU, share_prefix=True)
    assert batch.prefix.shape == (1, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_computed_twice_give_the_same_for_less_memory(
    family: str, tiny_model_path: Path
) -> None:
    base = load_model(tiny_model_path, device="cpu", dtype="float32").model
    model = AdaptedModel(base if family == "llama" else tiny_gpt2())
    adapters: list[Trained] = []
    kept: list[int] = []
    for recompute in (False, True):
        beyond = 20 if recompute else math.inf  # of 12, 30, 9 and 21 tokens
        limits = replace(TIGHT, max_bytes=20, recompute_bytes=beyond)
        batches = pack(encoded(), limits, device=CPU, share_prefix=True, tree_tokens=99)
        assert [batch.recompute for batch in batches] == [recompute, recompute, False]
        kept.append(0)

        def keep(tensor: Tensor) -> Tensor:
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            adapters.append(finish(start(model, limits=limits)))
    assert adapters[0].losses == adapters[1].losses
    assert bytes_of_one(adapters[0], model) == bytes_of_one(adapters[1], model)
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize(
    ("recompute", "free", "expected"),
    [
        pytest.param(None, 1.9, [True, False, False, False], id="one-has-more-than-half-of-free"),
        pytest.param(None, 2.1, [False] * 4, id="all-have-less"),
        pytest.param(True, 2.1, [True, True, False, False], id="those-beyond-the-limit"),
        pytest.param(False, 0.1, [False] * 4, id="never"),
    ],
)
def test_what_is_computed_twice_follows_the_free_memory(
    recompute: bool | None, free: float, expected: list[bool], model: AdaptedModel
) -> None:
    largest = StepLimits.of(model.layout, vocabulary=300, max_bytes=0.0)
    longest = 30 * largest.token_bytes + 5 * largest.answer_bytes  # the others: 21, 12 and 9 tokens
    limits = StepLimits.of(
        model.layout,
        vocabulary=300,
        max_bytes=0.6 * longest,
        free_bytes=free * longest,
        recompute=recompute,
    )
    batches = [
        batch
        for each in sorted(encoded(), key=lambda example: -len(example.ids))
        for batch in pack([each], limits, device=CPU, share_prefix=True)
    ]
    assert [batch.recompute for batch in batches] == expected


def test_half_precision_weights_train_an_adapter_in_full_precision(
    tiny_model_path: Path,
) -> None:
    found: list[Trained] = []
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(tiny_model_path, device="cpu", dtype=dtype)
        model = AdaptedModel(loaded.model)
        assert model.tree_tokens > 0
        before = digest_of_halves(loaded.model)
        found.append(finish(start(model, tree_tokens=99)))
        assert digest_of_halves(loaded.model) == before
        assert all(half.dtype is torch.float32 for pair in found[-1].adapter.pairs for half in pair)
    whole, half = (torch.tensor(one.losses) for one in found)
    assert half[-1] < half[0] - 0.2
    # bfloat16 keeps 8 bits: a loss of about 10 is off by some hundredths
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0)


def digest_of_halves(model: PreTrainedModel) -> float:
    return sum(float(weight.detach().double().abs().sum()) for weight in model.parameters())


def bytes_of_one(trained: Trained, model: AdaptedModel) -> bytes:
    return to_bytes(trained.adapter, model.layout)


def test_a_tree_has_no_padding_and_no_last_tokens() -> None:
    examples = [
        EncodedExample(ids=(4, 5, 6, 7, 8), answer_tokens=2),
        EncodedExample(ids=(4, 5, 9), answer_tokens=1),
    ]
    [batch] = pack(examples, ROOMY, device=CPU, share_prefix=True, tree_tokens=99)
    assert batch.places is not None
    assert batch.sees is not None
    # The prompts are 4 5 6 and 4 5; the 5 predicts an answer, so only the 4 is shared.
    assert batch.input_ids.tolist() == [[4, 5, 6, 7, 5]]
    assert batch.places.tolist() == [[0, 1, 2, 3, 1]]
    assert batch.positions.tolist() == [2, 3, 4]
    assert batch.targets.tolist() == [7, 8, 9]
    assert batch.tokens == 8
    assert batch.sees[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("lengths", "pair_tokens", "is_tree"),
    [
        pytest.param((40, 20), 0.001, True, id="padding-costs-more"),
        # 79 tokens in 6,241 pairs, against 80 in 3,200 pairs
        pytest.param((40, 40), 0.001, False, id="attention-costs-more"),
        pytest.param((40, 40), 0.0, True, id="without-the-last-tokens"),
        pytest.param((40,), 0.0, False, id="one-example-alone"),
    ],
)
def test_a_tree_is_made_where_it_is_less_work(
    lengths: tuple[int, ...], pair_tokens: float, is_tree: bool
) -> None:
    limits = replace(ROOMY, pair_tokens=pair_tokens)
    examples = [
        EncodedExample(ids=(*range(first, first + length),), answer_tokens=1)
        for first, length in zip((0, 100), lengths, strict=False)
    ]
    [batch] = pack(examples, limits, device=CPU, share_prefix=False, tree_tokens=99)
    assert (batch.sees is not None) == is_tree


def test_a_model_that_ignores_our_mask_gets_no_tree(loaded: LoadedModel) -> None:
    model = AdaptedModel(loaded.model)
    plain = LlamaForCausalLM.forward

    def deaf(self: LlamaForCausalLM, **given: Any) -> Any:
        given.pop("attention_mask", None)
        return plain(self, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "forward", deaf)
        assert model.tree_tokens == 0
    assert AdaptedModel(loaded.model).tree_tokens > 10**6


def test_a_sliding_window_caches_no_prefix_and_limits_a_tree() -> None:
    sliding = AdaptedModel(tiny_mistral())
    assert not sliding.can_share_prefix
    assert sliding.tree_tokens == WINDOW
    assert AdaptedModel(tiny_gpt2()).can_share_prefix


def test_an_example_longer_than_a_tree_may_hold_keeps_its_batch_in_rows() -> None:
    examples = [EncodedExample(ids=(*range(length),), answer_tokens=1) for length in (40, 20)]
    for tree_tokens, is_tree in ((40, True), (39, False)):
        [batch] = pack(examples, ROOMY, device=CPU, share_prefix=False, tree_tokens=tree_tokens)
        assert (batch.sees is not None) == is_tree
        assert batch.prefix.numel() == 0


def test_an_example_beyond_the_limit_has_a_pass_of_its_own() -> None:
    limits = StepLimits(token_bytes=1.0, answer_bytes=1.0, max_bytes=1)
    batches = pack(encoded(), limits, device=CPU, share_prefix=True)
    assert [batch.input_ids.shape[0] for batch in batches] == [1, 1, 1, 1]


def test_only_the_adapter_gets_gradients(loaded: LoadedModel) -> None:
    for weight in loaded.model.parameters():
        weight.requires_grad_(True)  # as a caller may have left them
    model = AdaptedModel(loaded.model)
    adapter = fresh_adapter(model.layout, SETTINGS, device=CPU)
    steps = training_steps(
        model,
        adapter,
        [pack(encoded(), TIGHT, device=CPU, share_prefix=True)],
        SETTINGS,
        observed(),
    )
    next(steps)  # one of two passes: gradients are there, the update is not
    assert all(half.grad is not None for pair in adapter.pairs for half in pair)
    assert all(weight.grad is None for weight in loaded.model.parameters())
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    steps.close()
    assert all(half.grad is None for pair in adapter.pairs for half in pair)
    assert not any(half.requires_grad for pair in adapter.pairs for half in pair)


def bytes_of(model: AdaptedModel, settings: TttSettings = SETTINGS) -> bytes:
    return to_bytes(train(model, settings).adapter, model.layout)


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_state(model: AdaptedModel) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = bytes_of(model)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert bytes_of(model) == first
        assert torch.equal(torch.get_rng_state(), before)
    assert bytes_of(model, replace(SETTINGS, seed=4)) != first


_IN_ANOTHER_PROCESS = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(int(sys.argv[4]))
import test_lora_training as here
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[3]).eval()
print(hashlib.sha256(here.bytes_of(here.AdaptedModel(base))).hexdigest())
"""


def test_another_process_gives_the_same_bytes(model: AdaptedModel, tiny_model_path: Path) -> None:
    here = Path(__file__).parent
    threads = str(torch.get_num_threads())
    arguments = [str(here), str(here.parent), str(tiny_model_path), threads]
    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-1] == hashlib.sha256(bytes_of(model)).hexdigest()


def _close_early(steps: Generator[None, None, Trained]) -> None:
    next(steps)
    next(steps)
    steps.close()


def _explode(steps: Generator[None, None, Trained]) -> None:
    with pytest.raises(AdaptationError):
        finish(steps)


@pytest.mark.parametrize(
    ("end", "rate"),
    [
        pytest.param(finish, 1e-2, id="success"),
        pytest.param(_explode, 1e30, id="error"),
        pytest.param(_close_early, 1e-2, id="cancel"),
    ],
)
def test_the_base_model_is_bit_identical_after(
    end: Callable[[Generator[None, None, Trained]], object], rate: float, loaded: LoadedModel
) -> None:
    before, output = digest(loaded.model), probe(loaded.model)
    end(start(AdaptedModel(loaded.model), replace(SETTINGS, learning_rate=rate)))
    assert digest(loaded.model) == before
    assert torch.equal(probe(loaded.model), output)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("limits", [ROOMY, TIGHT], ids=["one-pass", "several-passes"])
def test_nobody_sees_a_training_between_its_steps(
    limits: StepLimits, loaded: LoadedModel, model: AdaptedModel
) -> None:
    other = train(model, replace(SETTINGS, seed=9)).adapter
    alone = finish(start(model, limits=limits))
    base = probe(loaded.model)
    mixed = probe(model.forward_rows([other, None]))
    seen = 0
    steps = start(model, limits=limits)
    try:
        while True:
            next(steps)
            seen += 1
            assert torch.equal(probe(loaded.model), base)
            assert torch.equal(probe(model.forward_rows([other, None])), mixed)
            assert not any(weight.requires_grad for weight in loaded.model.parameters())
            assert torch.is_grad_enabled()  # the thread's mode is not left changed either
    except StopIteration as end:
        interrupted = cast("Trained", end.value)
    assert seen >= SETTINGS.epochs
    assert to_bytes(interrupted.adapter, model.layout) == to_bytes(alone.adapter, model.layout)


def test_one_yield_for_each_pass(model: AdaptedModel) -> None:
    passes = len(pack(encoded(), TIGHT, device=CPU, share_prefix=True))
    assert sum(1 for _ in start(model, limits=TIGHT)) == passes * SETTINGS.epochs


@pytest.mark.parametrize(
    ("samples_per_step", "min_steps", "epochs"),
    [
        pytest.param(4, 1, 1, id="one-step"),
        pytest.param(2, 1, 1, id="an-epoch-is-always-whole"),
        pytest.param(2, 3, 2, id="not-before-the-least-steps"),
    ],
)
def test_no_epoch_follows_one_that_ended_below_the_limit(
    samples_per_step: int, min_steps: int, epochs: int, model: AdaptedModel
) -> None:
    settings = replace(SETTINGS, samples_per_step=samples_per_step, min_steps=min_steps)
    short = train(model, replace(settings, stop_loss=1e9))
    whole = train(model, replace(settings, epochs=epochs))
    assert short.losses == whole.losses
    assert short.trained_tokens == epochs * sum(len(example.ids) for example in encoded())
    assert to_bytes(short.adapter, model.layout) == to_bytes(whole.adapter, model.layout)


def test_epochs_go_on_until_one_ends_below_the_limit(model: AdaptedModel) -> None:
    settings = replace(SETTINGS, samples_per_step=2)
    full = train(model, settings)
    ends = full.losses[1::2]
    assert ends[1] < ends[0]
    short = train(model, replace(settings, stop_loss=(ends[0] + ends[1]) / 2))
    assert short.losses == full.losses[:4]


def test_progress_is_told_with_every_loss(model: AdaptedModel) -> None:
    told: list[TrainStep] = []
    trained = finish(start(model, watch=observed(told.append)))
    assert told == [
        TrainStep(step=step, steps=4, loss=loss) for step, loss in enumerate(trained.losses, 1)
    ]


@pytest.mark.parametrize(
    ("epochs", "rate", "words"),
    [
        pytest.param(4, 1e30, "loss of step 2 is nan", id="a-later-loss"),
        pytest.param(1, float("inf"), "weights are not finite", id="the-last-update"),
    ],
)
def test_numbers_that_are_not_finite_are_an_error(
    epochs: int, rate: float, words: str, model: AdaptedModel
) -> None:
    with pytest.raises(AdaptationError, match=words):
        train(model, replace(SETTINGS, epochs=epochs, learning_rate=rate))


def test_instead_of_0_the_size_of_the_weights_gives_the_learning_rate(
    tiny_model_path: Path,
) -> None:
    plain, larger = (
        load_model(tiny_model_path, device="cpu", dtype="auto").model for _ in range(2)
    )
    for layer in larger.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 3.0
    model, settings = AdaptedModel(plain), TttSettings()
    rate = learning_rate_of(model, settings)
    # The tiny model's weights are normal with a deviation of 0.4, most targets have 32 inputs.
    assert rate == pytest.approx(4.25e-4 * 0.4 * 32**0.5, rel=0.1)
    assert learning_rate_of(AdaptedModel(larger), settings) == pytest.approx(3 * rate, rel=0.05)
    assert learning_rate_of(AdaptedModel(larger), SETTINGS) == SETTINGS.learning_rate
    found = train(model, replace(SETTINGS, learning_rate=0.0))
    assert found.losses == train(model, replace(SETTINGS, learning_rate=rate)).losses


def test_the_deadline_is_checked_before_each_pass(model: AdaptedModel) -> None:
    clock = iter([1.0, 2.0, 3.0])  # third pass: first one of step 2
    watch = observed(clock=lambda: next(clock), deadline=3.0)
    with pytest.raises(BudgetExceeded, match="before step 2 of 4"):
        finish(start(model, limits=TIGHT, watch=watch))


def example(question: str, answer: str) -> TrainingExample:
    return TrainingExample(messages=({"role": "user", "content": question},), answer=answer)


def test_an_example_is_the_prompt_of_generation_and_the_answer_with_its_end(
    loaded: LoadedModel,
) -> None:
    [found] = encode_examples(loaded, [example("where?", "there")])
    tokenizer = cast("Any", loaded.tokenizer)
    assert (
        tokenizer.decode(found.ids)
        == "<|start|>user\nwhere?<|end|>\n<|start|>assistant\nthere<|end|>"
    )
    assert tokenizer.decode(found.ids[-found.answer_tokens :]) == "there<|end|>"
    [batch] = pack([found], ROOMY, device=CPU, share_prefix=True)
    assert [int(token) for token in batch.targets] == [*found.ids[-found.answer_tokens :]]
    before = torch.tensor(found.ids)[batch.positions]
    assert tokenizer.decode(before) == tokenizer.decode(found.ids[-found.answer_tokens - 1 : -1])


def test_a_long_prompt_loses_its_left_end_and_the_answer_nothing(loaded: LoadedModel) -> None:
    [found] = encode_examples(loaded, [example("z" * 600 + " where?", "there")])
    text = cast("Any", loaded.tokenizer).decode(found.ids)
    assert len(found.ids) == loaded.context_tokens
    assert text.endswith("z where?<|end|>\n<|start|>assistant\nthere<|end|>")
    assert "user" not in text


@pytest.mark.parametrize(
    ("letters", "fits"),
    [pytest.param(510, True, id="one-place-for-the-prompt"), pytest.param(511, False, id="none")],
)
def test_an_answer_may_fill_the_context_but_for_one_token(
    letters: int, fits: bool, loaded: LoadedModel
) -> None:
    examples = [example("a", "b"), example("a", "z" * letters)]  # and the end token
    if fits:
        assert len(encode_examples(loaded, examples)[1].ids) == 512
        return
    with pytest.raises(AdaptationError, match=r"example 2 has 512 tokens, the model's context 512"):
        encode_examples(loaded, examples)


def test_no_examples_are_an_error(loaded: LoadedModel) -> None:
    with pytest.raises(AdaptationError, match="no example"):
        encode_examples(loaded, [])
