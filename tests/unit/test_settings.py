"""Settings from whatever a host puts into the context, their bounds, and their form in Studio."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from pydantic import BaseModel
from scripted_parts import Parts

from rttc_graph import ConfigurationError, RttcSettings, create_rttc_graph
from rttc_graph.run.scope import SettingsOfRun
from rttc_graph.settings import SearchSettings, TttSettings

DEFAULTS = RttcSettings(tau_r=0.3, k=3, tenant="graph")


@dataclass
class HostDataclass:
    """A host's own context with two of our names among others."""

    user_id: str = "u1"
    tau_r: float = 0.5
    tenant: str | None = None
    temperature_unit: str = "celsius"


class HostModel(BaseModel):
    """A host's own context as a pydantic model."""

    user_id: str = "u1"
    tau_r: float = 0.5
    locale: str = "de"


class HostWithoutOurNames:
    """A host's own context that says nothing to us."""

    locale = "de"


class HostSettings(RttcSettings):
    """A host's extension of our settings."""

    locale: str = "de"


@pytest.mark.parametrize(
    ("context", "tau_r", "k"),
    [
        pytest.param(None, 0.3, 3, id="none"),
        pytest.param({}, 0.3, 3, id="an-empty-dict"),
        pytest.param({"tau_r": 0.5}, 0.5, 3, id="a-dict"),
        pytest.param({"tau_r": 0.5, "user_id": "u1"}, 0.5, 3, id="a-dict-with-keys-of-a-server"),
        pytest.param({"tau_r": None, "k": 4}, 0.3, 4, id="a-dict-with-an-empty-form-field"),
        pytest.param(RttcSettings(tau_r=0.5), 0.5, 3, id="ours"),
        pytest.param(RttcSettings(tau_r=0.5, k=8), 0.5, 8, id="ours-with-a-default-said-aloud"),
        pytest.param(HostSettings(tau_r=0.5), 0.5, 3, id="a-subclass-of-ours"),
        pytest.param(HostDataclass(), 0.5, 3, id="a-dataclass-of-the-host"),
        pytest.param(HostModel(), 0.5, 3, id="a-pydantic-model-of-the-host"),
        pytest.param(HostWithoutOurNames(), 0.3, 3, id="an-object-without-our-names"),
        pytest.param("a string", 0.3, 3, id="not-even-an-object-with-fields"),
    ],
)
def test_a_context_of_any_kind(context: object, tau_r: float, k: int) -> None:
    settings = RttcSettings.of(context, defaults=DEFAULTS)
    assert (settings.tau_r, settings.k, settings.tenant) == (tau_r, k, "graph")


@pytest.mark.parametrize("context", [None, {}, HostWithoutOurNames()])
def test_without_defaults_ours_hold(context: object) -> None:
    assert RttcSettings.of(context) == RttcSettings()


def test_a_run_reads_its_settings_once_and_a_hosts_own_context_each_time() -> None:
    settings_of = SettingsOfRun(DEFAULTS)
    ours, other = RttcSettings(tau_r=0.5), RttcSettings(tau_r=0.6)
    assert settings_of(ours) is settings_of(ours)
    assert [settings_of(each).tau_r for each in (ours, other, ours, None)] == [0.5, 0.6, 0.5, 0.3]
    changing: dict[str, Any] = {"tau_r": 0.7}
    assert settings_of(changing).tau_r == 0.7
    changing["tau_r"] = 0.8
    assert settings_of(changing).tau_r == 0.8


@pytest.mark.parametrize(
    ("said", "arms"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param({"arms": ("ttt", "nearest")}, ("nearest", "ttt"), id="sorted-by-cost"),
        pytest.param({"arms": ["rag", "rag"]}, ("rag",), id="each-once"),
        pytest.param({"arms": " rag, nearest,"}, ("nearest", "rag"), id="with-commas"),
        pytest.param({"first_arm": "rag"}, ("rag", "ttt"), id="from-rag"),
        pytest.param({"first_arm": "direct"}, ("direct", "rag", "ttt"), id="from-direct"),
    ],
)
def test_settings_say_which_arms_to_try(said: dict[str, Any], arms: tuple[str, ...]) -> None:
    assert RttcSettings(**said).wanted_arms == arms


@pytest.mark.parametrize("arms", [("rag", "best"), "rag, best"])
def test_an_unknown_arm_is_named_with_those_that_are_known(arms: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"arms\.1='best': .*'nearest', 'direct', 'rag'"):
        RttcSettings(arms=arms)


def test_arms_and_a_first_arm_are_not_said_in_one_place() -> None:
    with pytest.raises(ConfigurationError, match="leave out first_arm"):
        RttcSettings(arms=("rag",), first_arm="rag")
    of_graph = RttcSettings(first_arm="rag")
    assert RttcSettings.of({"arms": ["nearest"]}, defaults=of_graph).wanted_arms == ("nearest",)
    listed = RttcSettings(arms=("nearest",))
    assert RttcSettings.of({"first_arm": "rag"}, defaults=listed).wanted_arms == ("rag", "ttt")


BAD: list[tuple[str, Any]] = [
    ("policy", "best"),
    ("tau_r", -0.01),
    ("tau_r", 1.01),
    ("tau_r", math.nan),
    ("tau_r_of", "x" * 201),
    ("tau_r", "high"),
    ("k", 0),
    ("k", 65),
    ("k", 1.5),
    ("samples_choice", "random"),
    ("tenant", ""),
    ("tenant", "x" * 201),
    ("domain", "x" * 201),
    ("min_similarity", -0.1),
    ("min_similarity", 1.1),
    ("evidence_similarity", -0.1),
    ("evidence_similarity", 1.1),
    ("below", "perhaps"),
    ("decline_text", ""),
    ("system_prompt", ""),
    ("rag_template", "Use {samples}."),
    ("rewrite_follow_ups", "perhaps"),
    ("domain", "a\0b"),
    ("budget_seconds", 0),
    ("budget_seconds", math.inf),
    ("budget_tokens", 0),
    ("budget_flops", -1),
    ("budget_flops", float("inf")),
    ("budget_arms", 0),
    ("budget_arms", 65),
    ("max_new_tokens", 0),
    ("max_new_tokens", 32_769),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("top_p", 0),
    ("top_p", 1.1),
    ("stop_strings", 7),
    ("stop_strings", ("x",) * 17),
    ("seed", -1),
    ("seed", 2**31),
    ("samples_similarity", 1.1),
    ("adapter_similarity", -0.1),
    ("reuse_similarity", 1.1),
    ("reuse_loss", -0.1),
    ("ask_before_training", "perhaps"),
    ("tau_r_of", "f" * 201),
    ("arms", 7),
    ("first_arm", "ttt"),
    ("nearest_votes", 0),
    ("nearest_votes", 65),
    ("use_cache", "perhaps"),
    ("stream_candidates", "perhaps"),
    ("search_n", 0),
    ("search_n", 65),
    ("search_from", 7),
    ("search_temperature", -0.1),
    ("search_temperature", 2.1),
    ("search_max_waits", -1),
    ("search_max_waits", 9),
    ("search_answer_tokens", 0),
    ("search_answer_tokens", 1025),
    ("search_beam", "wide"),
    ("search_children", 0),
    ("search_children", 17),
    ("search_lookahead", 0),
    ("search_lookahead", 5),
    ("search_nodes", 0),
    ("search_nodes", 1025),
    ("search_step_marks", 7),
    ("search_step_marks", ("x",) * 9),
    ("search_step_least", 0),
    ("search_step_least", 1025),
    ("search_step_most", 0),
    ("search_step_most", 4097),
    ("search_lookups", 0),
    ("search_lookups", 9),
    ("search_lookup_on", 7),
    ("search_lookup_on", ()),
    ("search_lookup_logprob", 0.1),
    ("search_lookup_logprob", -21),
    ("search_lookup_window", 0),
    ("search_lookup_window", 257),
    ("search_lookup_fall", 0),
    ("search_lookup_fall", 1.1),
    ("search_lookup_same", 0),
    ("search_lookup_same", 1.1),
    ("search_lookup_tokens", 7),
    ("search_lookup_tokens", 4097),
    ("search_thoughts", 0),
    ("search_thoughts", 65),
    ("search_thought_parts", 0),
    ("search_thought_parts", 9),
    ("search_thought_depth", 0),
    ("search_thought_depth", 5),
    ("ttt_rank", 0),
    ("ttt_rank", 257),
    ("ttt_alpha", 0),
    ("ttt_layers", 0),
    ("ttt_layers", 1.1),
    ("ttt_shown", -1),
    ("ttt_shown", 17),
    ("ttt_augment", 7),
    ("ttt_views", 0),
    ("ttt_views", 17),
    ("ttt_learning_rate", -0.1),
    ("ttt_learning_rate", 1.1),
    ("ttt_epochs", 0),
    ("ttt_epochs", 101),
    ("ttt_samples_per_step", 0),
    ("ttt_samples_per_step", 65),
    ("ttt_min_steps", 0),
    ("ttt_min_steps", 1001),
    ("ttt_stop_loss", -0.1),
    ("ttt_stop_loss", math.nan),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{f}-{str(v)[:9]}" for f, v in BAD])
def test_a_value_out_of_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}=") as raised:
        RttcSettings.of({field: value})
    assert repr(value)[:40] in str(raised.value)


@pytest.mark.parametrize("stop", ["", "x" * 201])
def test_a_stop_string_has_one_to_200_characters(stop: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^stop_strings\.0='"):
        RttcSettings(stop_strings=(stop,))


def test_a_single_stop_string_is_a_list_of_one() -> None:
    assert RttcSettings(stop_strings="a, b").stop_strings == ("a, b",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"tua_r": 0.9}, "unknown settings 'tua_r': did you mean 'tau_r'?", id="typo"),
        pytest.param({"x": 1, "tau_r": 2}, "unknown settings 'x': Known are", id="before-values"),
        pytest.param({"b": 1, "a": 1}, "unknown settings 'a', 'b': Known are", id="all-of-them"),
    ],
)
def test_a_name_that_is_no_setting_is_refused_with_all_that_are(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(words)}") as raised:
        RttcSettings(**given)
    assert all(repr(name) in str(raised.value) for name in RttcSettings.model_fields)


def test_a_hosts_own_name_that_is_nearly_ours_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings_of = SettingsOfRun(DEFAULTS)
    for _ in range(2):
        settings_of({"user_id": "u1", "Tau-r": 0.9}, {"domian": "law", "thread_id": "1", "k": 4})
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "a run was given 'domian', which is no setting of rttc-graph",
        "a run was given 'Tau-r', which is no setting of rttc-graph",
    ]
    assert "did you mean 'tau_r'" in caplog.text
    caplog.clear()
    settings_of(RttcSettings(tau_r=0.4), {"__pregel_read": 1, "locale": "de", "checkpoint_ns": ""})
    assert not caplog.records


def test_each_field_has_a_row_among_the_bad_values() -> None:
    assert {field for field, _ in BAD} == set(RttcSettings.model_fields)


def test_a_step_has_a_least_length_below_its_most() -> None:
    with pytest.raises(ConfigurationError, match="search_step_least=9 must be at most"):
        RttcSettings(search_step_least=9, search_step_most=8)
    assert RttcSettings(search_step_marks="; ").search_step_marks == ("; ",)  # type: ignore[arg-type]
    assert RttcSettings(search_step_marks=()).search.step_marks == ()


def test_a_value_out_of_bounds_in_a_hosts_own_type_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^tau_r=1\.5: .*less than or equal to 1"):
        RttcSettings.of(HostDataclass(tau_r=1.5))


def test_a_value_out_of_bounds_in_the_constructor_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^tau_r=1\.5: .*less than or equal to 1"):
        RttcSettings(tau_r=1.5)


def test_settings_cannot_be_changed_behind_a_run() -> None:
    settings = RttcSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.tau_r = 0.1


OTHER_TRAINING: dict[str, Any] = {
    "rank": 4,
    "alpha": 2.0,
    "layers": 0.5,
    "learning_rate": 0.1,
    "epochs": 9,
    "samples_per_step": 3,
    "min_steps": 5,
    "stop_loss": 0.5,
    "seed": 7,
}
"""A value of each field of a training that is not its default."""


def test_no_field_of_a_training_is_left_out_below() -> None:
    assert OTHER_TRAINING.keys() == {field.name for field in fields(TttSettings)}


@pytest.mark.parametrize("name", OTHER_TRAINING)
def test_each_field_of_a_training_is_taken_over_and_changes_the_adapters_key(name: str) -> None:
    flat = name if name == "seed" else f"ttt_{name}"
    training = RttcSettings.model_validate({flat: OTHER_TRAINING[name]}).ttt
    assert training == replace(TttSettings(), **{name: OTHER_TRAINING[name]})
    assert training.fingerprint() != TttSettings().fingerprint()


def test_the_defaults_of_both_classes_agree() -> None:
    assert RttcSettings().ttt == TttSettings()


def test_each_field_of_a_search_is_taken_over() -> None:
    assert RttcSettings().search == SearchSettings()
    other = SearchSettings(n=3, from_=("rag", "direct"), temperature=0.2)
    flat = {"search_n": 3, "search_from": ["rag", "direct", "rag"], "search_temperature": 0.2}
    assert RttcSettings.model_validate(flat).search == other
    assert RttcSettings.model_validate({**flat, "search_from": " rag,direct,"}).search == other
    with pytest.raises(ConfigurationError, match=r"search_from\.1='ttt'.*'recalled' or 'rag'"):
        RttcSettings.of({"search_from": ("rag", "ttt")})


def test_an_adapter_of_samples_chosen_otherwise_has_another_fingerprint() -> None:
    nearest, chosen = RttcSettings(), RttcSettings(samples_choice="sift")
    assert nearest.training_fingerprint == TttSettings().fingerprint()  # as databases have it
    assert chosen.training_fingerprint != nearest.training_fingerprint
    others = RttcSettings(samples_choice="sift", ttt_rank=4)
    assert chosen.training_fingerprint != others.training_fingerprint


@pytest.mark.parametrize(
    ("samples", "of_epoch", "steps"),
    [
        pytest.param(8, 4, 4, id="one-epoch"),
        pytest.param(7, 4, 4, id="an-odd-number"),
        pytest.param(1, 1, 4, id="few-samples-again"),
        pytest.param(20, 10, 10, id="many-samples-once"),
    ],
)
def test_how_many_steps_a_training_has(samples: int, of_epoch: int, steps: int) -> None:
    settings = TttSettings(epochs=1, samples_per_step=2, min_steps=4)
    assert settings.steps_of_epoch(samples) == of_epoch
    assert settings.steps(of_epoch) == steps
    assert replace(settings, epochs=3).steps(of_epoch) == max(4, 3 * of_epoch)


def test_the_fingerprint_of_a_training_is_the_same_in_every_release() -> None:
    # echo -n '{"alpha": 16.0, …, "stop_loss": 0.05}' | sha256sum: adapters in databases carry it.
    assert (
        TttSettings(epochs=5, learning_rate=2e-3, stop_loss=0.05).fingerprint()
        == "1a042352b92d2b37"
    )


GRAPH = create_rttc_graph(**Parts().parts())
PROPERTIES: dict[str, Any] = (GRAPH.get_context_jsonschema() or {})["properties"]


@pytest.mark.parametrize("field", sorted(RttcSettings.model_fields))
def test_studio_can_show_a_field(field: str) -> None:
    shown = PROPERTIES[field]
    assert shown["description"]
    default: Any = getattr(RttcSettings(), field)
    assert shown["default"] == json.loads(json.dumps(default))  # a tuple is a list there
    assert set(shown["langgraph_nodes"]) <= set(GRAPH.get_graph().nodes)
    assert shown["langgraph_nodes"]


@pytest.mark.parametrize("field", sorted(RttcSettings.model_fields))
def test_studio_can_check_a_field(field: str) -> None:
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum"}
    bounds |= {"minLength", "maxLength"}
    shown = PROPERTIES[field].get("items", PROPERTIES[field])  # a list has the bounds of its items
    assert bounds & shown.keys() or shown["type"] == "boolean"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tenant": "Acme\0Ltd"}, "tenant='Acme\\x00Ltd' holds a NUL character"),
        ({"k": 0}, "k=0: input should be greater than"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_once_as_it_is(
    said: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RttcSettings.of(said)
    assert str(caught.value).startswith(words)
    assert "error," not in str(caught.value)
    assert str(caught.value).count("=") == 1
