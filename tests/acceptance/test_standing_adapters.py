"""Runs in a domain that has an adapter of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from graph_runs import Face, ask
from scripted_parts import Parts, ScriptedTrainer, trained_adapter

from rttc_graph.cli.app import main
from rttc_graph.errors import BackendError
from rttc_graph.graph import RttcParts
from rttc_graph.integrations.postgres.database import Database
from rttc_graph.integrations.postgres.ledger_store import PostgresLedgerStore
from rttc_graph.integrations.postgres.rating_store import PostgresRatingStore
from rttc_graph.protocols import Rating, RunRecord, TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.settings import RttcSettings, TttSettings


@dataclass
class OnTop(ScriptedTrainer):
    """Notes what it goes on from."""

    starts: list[str] = field(default_factory=list[str])

    async def train_on(
        self,
        start: TrainedAdapter,
        key: str,
        examples: Sequence[TrainingExample],
        settings: TttSettings,
        *,
        on_step: Callable[[TrainStep], None],
        deadline: float | None = None,
    ) -> TrainedAdapter:
        self.starts.append(start.key)
        return await self.train(key, examples, settings, on_step=on_step, deadline=deadline)


@dataclass
class Standing(Parts):
    """Parts of a graph in which the domain `math` has an adapter of its own."""

    standing: str | None = "own"
    error: Exception | None = None

    async def standing_adapter(self, *, domain: str, tenant: str) -> str | None:
        del tenant
        if self.error:
            raise self.error
        return self.standing if domain == "math" else None

    async def stored(self, key: str) -> TrainedAdapter | None:
        return trained_adapter(key)

    def parts(self) -> RttcParts:
        return {**super().parts(), "standing_adapters": self}


async def test_it_takes_the_place_of_the_plain_model(face: Face) -> None:
    parts = Standing().rewarding(ttt=0.1, rag=0.2)  # the scripted model says ttt with an adapter

    output = await ask(parts, face, domain="math", arms=("direct", "rag"))

    assert [request.adapter for request in parts.policy_model.requests] == ["own", "own"]
    [said] = [one for one in output["ledger"] if one["node"] == "prepare"]
    assert (said["event"], said["detail"]["adapter_key"]) == ("noted", "own")
    answered = [one["detail"] for one in output["ledger"] if one["event"] == "answered"]
    assert [one["standing"] for one in answered] == ["own", "own"]
    assert [one.get("standing") for one in output["candidates"]] == ["own", "own"]
    assert [one["adapter"] for one in output["candidates"]] == [None, None]
    [state] = parts.cache.states  # it is none of the query's, and is not recalled as one
    assert state.adapter is None


async def test_other_domains_are_answered_by_the_plain_model(face: Face) -> None:
    parts = Standing().rewarding(direct=0.9)
    output = await ask(parts, face, domain="shop")
    assert [request.adapter for request in parts.policy_model.requests] == [None]
    assert all("standing" not in one for one in output["candidates"])


async def test_draws_of_a_panel_have_it_too(face: Face) -> None:
    parts = Standing()
    await ask(parts, face, domain="math", policy="majority", search_n=3)
    assert {request.adapter for request in parts.policy_model.requests} == {"own"}


async def test_adapters_of_a_query_are_trained_on_top_of_it(face: Face) -> None:
    trainer = OnTop()
    parts = Standing(trainer=trainer).rewarding(rag=0.2, ttt=0.9)
    output = await ask(parts, face, domain="math", policy="ttt")

    assert trainer.starts == ["own"]
    [(key, _)] = trainer.trainings
    learnt = trainer.learnt[0]
    assert key == adapter_key("base own", learnt, TttSettings())
    assert key != adapter_key("base", learnt, TttSettings())
    assert [request.adapter for request in parts.policy_model.requests] == [key]
    assert output["candidates"][0]["adapter"] == key
    # those of the plain model, or on top of another one, are not recalled
    asked = {request.training_fingerprint for request in parts.cache.requests}
    asked |= {state.training_fingerprint for state in parts.cache.states}
    assert asked == {f"{RttcSettings().training_fingerprint}-on-own"}


async def test_a_trainer_that_cannot_go_on_begins_with_the_base(face: Face) -> None:
    parts = Standing().rewarding(ttt=0.9)
    await ask(parts, face, domain="math", policy="ttt")
    [(key, _)] = parts.trainer.trainings
    assert key == adapter_key("base", parts.trainer.learnt[0], TttSettings())


async def test_the_plain_model_answers_where_it_cannot_be_looked_up(face: Face) -> None:
    parts = Standing(error=BackendError("no database")).rewarding(direct=0.9)
    output = await ask(parts, face, domain="math")
    assert output["answer"] == "direct"
    failed = [one["detail"] for one in output["ledger"] if one["event"] == "failed"]
    assert [(one["error"]) for one in failed] == ["BackendError: no database"]


@pytest.fixture
def installation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_dsn: str,
    tiny_model_path: Path,
    tiny_embedder_path: Path,
) -> Path:
    for name, value in {
        "HOME": tmp_path / "home",
        "DATABASE_URL": postgres_dsn,
        "MODEL": tiny_model_path,
        "EMBEDDER": tiny_embedder_path,
        "REWARD": "self-confidence",
        "THREADS": 1,
    }.items():
        monkeypatch.setenv(f"RTTC_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def rate_all(dsn: str, questions: Sequence[str]) -> None:
    """Store a run for each question, whose answer "yes" a person found right."""
    with closing(Database(dsn)) as database:
        ledger, ratings = PostgresLedgerStore(database), PostgresRatingStore(database)
        for question in questions:
            run = RunRecord(
                run_id=question,
                tenant="default",
                domain="letters",
                query=question,
                policy="cascade",
                tau_r=0.5,
                arm="direct",
                reward=0.9,
                accepted=True,
                seconds=1.0,
                tokens=10,
                entries=[],
                answer="yes",
            )
            await ledger.append(run)
            await ratings.rate(Rating(run_id=question, is_right=True), tenant="default")


def test_an_improvement_from_the_command_line_and_back(
    installation: Path, capsys: pytest.CaptureFixture[str], postgres_dsn: str
) -> None:
    questions = [f"which letter is number {n}?" for n in range(80)]
    rows = [{"question": text, "answer": "yes", "domain": "letters"} for text in questions]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (installation / "solved.jsonl").write_text(lines, encoding="utf-8")
    assert main(["kb", "ingest", "solved.jsonl"]) == 0
    assert main(["improve", "letters", "--limit", "10"]) == 2
    assert "too few questions of known outcome" in capsys.readouterr().err
    assert main(["improve", "letters", "--records", "."]) == 2
    assert "cannot write '.': is a directory" in capsys.readouterr().err.lower()
    assert main(["improve", "leters"]) == 2
    assert "did you mean 'letters'" in capsys.readouterr().err
    assert main(["improve", "letters", "--undo", "--yes"]) == 2
    assert "has no adapter of its own" in capsys.readouterr().err
    improve = ["improve", "letters", "--max-new-tokens", "8", "--draws", "1"]
    assert main(improve) == 2  # the tiny model says no "yes"
    assert "answered none rightly in 1 draws" in capsys.readouterr().err

    asyncio.run(rate_all(postgres_dsn, questions))
    assert main([*improve, "--learning-rate", "0.02", "--epochs", "6", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["kept"], card["trial"]["before"]) == (True, 0)
    assert card["trial"]["after"] > 0.9
    assert card["rounds"][0]["lessons"] == {"rated": card["questions"]["training"]}

    assert main(["status"]) == 0
    assert "letters (" in capsys.readouterr().out
    ask = ["ask", questions[0], "--domain", "letters", "--policy", "direct", "--json"]
    assert main(ask) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answer"].strip().startswith("yes")
    again = [*improve, "--learning-rate", "0.02", "--epochs", "6"]
    assert main(again) == 0
    assert "not kept: it stands for the domain already" in capsys.readouterr().out

    with psycopg.connect(postgres_dsn) as connection:  # as a disk may do
        connection.execute("update rttc_adapter set weights = set_byte(weights, 9, 9)")
    assert main(ask) == 0
    assert not json.loads(capsys.readouterr().out)["answer"].strip().startswith("yes")
    assert main(again) == 0
    capsys.readouterr()
    assert main(ask) == 0
    assert json.loads(capsys.readouterr().out)["answer"].strip().startswith("yes")

    assert main(["improve", "letters", "--undo", "--yes"]) == 0
    assert "the plain model answers again" in capsys.readouterr().out
    assert main(ask) == 0
    assert not json.loads(capsys.readouterr().out)["answer"].strip().startswith("yes")
