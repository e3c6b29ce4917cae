"""No run tells a tenant what another one has done, unless the host says that they may share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from graph_runs import Output, ask
from scripted_parts import Parts, sample

from rttc_graph import ConfigurationError, create_rttc_graph
from rttc_graph.graph import RttcParts
from rttc_graph.protocols import RewardRequest, reuse_scope
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.run.prompts import training_examples
from rttc_graph.settings import TttSettings
from rttc_graph.testing.memory_cache import MemoryQueryStateCache

SAMPLES = [sample(1), sample(2)]


def shared_parts(*, share: bool) -> tuple[Parts, RttcParts]:
    parts = Parts().rewarding(ttt=0.9)
    parts.knowledge_base.samples = SAMPLES
    made: RttcParts = {
        **parts.parts(),
        "cache": MemoryQueryStateCache(),
        "share_between_tenants": share,
    }
    return parts, made


def told(output: Output) -> list[tuple[str, str, object]]:
    """Return what a ledger says apart from times and keys."""
    quiet = {"seconds", "key", "adapter_key", "at"}
    return [
        (e["node"], e["event"], {k: v for k, v in e["detail"].items() if k not in quiet})
        for e in output["ledger"]
    ]


@pytest.mark.parametrize("share", [False, True], ids=["apart", "sharing"])
async def test_whether_another_tenant_has_trained_on_the_samples(share: bool) -> None:
    parts, made = shared_parts(share=share)
    first = await ask(made, policy="ttt", tenant="one")
    second = await ask(made, policy="ttt", tenant="two")
    keys = [output["candidates"][0]["adapter"] for output in (first, second)]
    assert (keys[0] == keys[1]) == share
    assert len(parts.trainer.trainings) == (1 if share else 2)
    if not share:
        assert told(second) == told(first)


async def test_without_a_tenant_the_key_is_that_of_earlier_releases() -> None:
    _, made = shared_parts(share=False)
    output = await ask(made, policy="ttt")
    key = adapter_key("base", training_examples(SAMPLES), TttSettings())
    assert output["candidates"][0]["adapter"] == key
    assert adapter_key("base", [], TttSettings(), reuse_scope="one") != adapter_key(
        "base", [], TttSettings()
    )


@pytest.mark.parametrize(
    ("said", "scope"),
    [({}, ""), ({"tenant": "default"}, ""), ({"tenant": "one"}, "one")],
)
async def test_models_and_judges_are_told_for_whom_they_work(
    face: str, said: dict[str, str], scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, made = shared_parts(share=False)
    judged: list[str] = []
    score = parts.reward_model.score

    async def note(query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        judged.append(reuse_scope.get())
        return await score(query, candidates)

    monkeypatch.setattr(parts.reward_model, "score", note)
    await ask(made, face, policy="direct", **said)  # type: ignore[arg-type]
    assert judged == [scope]
    assert [one.reuse_scope for one in parts.policy_model.requests] == [scope]
    assert reuse_scope.get() == ""


async def test_a_run_cannot_choose_to_share() -> None:
    parts, made = shared_parts(share=False)
    with pytest.raises(ConfigurationError, match="unknown settings 'share_between_tenants'"):
        await ask(made, policy="ttt", tenant="one", share_between_tenants=True)
    for tenant in ("one", "two"):
        context = {"policy": "ttt", "tenant": tenant}
        graph: Any = create_rttc_graph(**made)
        config = {"configurable": {"share_between_tenants": True}}
        await graph.ainvoke({"query": "q"}, config, context=context)
    assert len(parts.trainer.trainings) == 2
