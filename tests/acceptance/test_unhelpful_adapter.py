"""An adapter that did not help a query is not trained for it again, until its samples change."""

from __future__ import annotations

from graph_runs import ask, events
from scripted_parts import Parts, sample

from rttc_graph.testing.memory_cache import MemoryQueryStateCache


async def test_a_rejected_adapter_is_not_trained_again_for_the_same_question() -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.5, ttt=0.2)
    made = parts.parts()
    made["cache"] = MemoryQueryStateCache()

    first = await ask(made)
    second = await ask(made)
    third = await ask(made)

    assert (first["arm"], len(parts.trainer.trainings)) == ("rag", 1)
    for later in (second, third):
        assert later["arm"] == "rag"
        assert events(later, of="ttt_adapt") == ["skipped"]
        [skipped] = [e for e in later["ledger"] if e["event"] == "skipped"]
        assert skipped["detail"]["reason"] == "the adapter for this query did not help before"


async def test_new_samples_or_settings_make_it_worth_another_try() -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.5, ttt=0.2)
    made = parts.parts()
    made["cache"] = MemoryQueryStateCache()
    await ask(made)
    await ask(made, ttt_rank=4)
    assert len(parts.trainer.trainings) == 2
    made["cache"] = MemoryQueryStateCache()
    await ask(made)
    parts.knowledge_base.samples = [sample(3)]
    await ask(made, k=1)
    assert len(parts.trainer.trainings) == 4


async def test_a_run_without_another_answer_trains_all_the_same() -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.5, ttt=0.2)
    made = parts.parts()
    made["cache"] = MemoryQueryStateCache()
    await ask(made)
    output = await ask(made, policy="ttt")
    assert output["arm"] == "ttt"
    assert len(parts.trainer.trainings) == 2
