"""The arithmetic of the benchmarks and the shape of what they print; no time is asserted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.cases import overhead, ttt
from benchmarks.experiments import nearest_answers
from benchmarks.experiments.peer_embedders import open_encoder
from benchmarks.peers import libraries as peers
from benchmarks.tools import benchmark_options as setup
from benchmarks.tools import split_data, synthetic
from benchmarks.tools.benchmark_options import Setup
from benchmarks.tools.matmul import Shapes, needed_flops
from benchmarks.tools.paired_runs import Case, measure, row_of
from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.lora.training_batches import EncodedExample

KEYS = {
    "case", "ours", "peer", "peer_name", "unit", "ratio", "spread", "target", "met",
}  # fmt: skip


def case(**more: Any) -> Case:
    given: dict[str, Any] = {
        "name": "work",
        "ours": lambda: 1.0,
        "peer": lambda: 4.0,
        "peer_name": "peer 1.0",
        "unit": "s",
    }
    return Case(**{**given, **more})


class TestRows:
    def test_the_ratio_is_taken_pair_by_pair(self) -> None:
        row = row_of(case(least_ratio=2.5), [(1.0, 4.0), (2.0, 6.0), (4.0, 8.0)])
        assert row == {
            "case": "work",
            "ours": 2.0,
            "peer": 6.0,
            "peer_name": "peer 1.0",
            "unit": "s",
            "ratio": 3.0,
            "spread": [2.0, 4.0],
            "target": "ratio >= 2.5",
            "met": True,
        }

    @pytest.mark.parametrize(
        ("aim", "met"),
        [
            ({}, True),
            ({"least_ratio": 3.0}, True),
            ({"least_ratio": 3.1}, False),
            ({"most_ours": 2.0}, True),
            ({"most_ours": 1.9}, False),
            ({"least_ratio": 3.0, "most_ours": 1.9}, False),
        ],
    )
    def test_every_aim_must_be_met(self, aim: dict[str, float], met: bool) -> None:
        assert row_of(case(**aim), [(2.0, 6.0)])["met"] is met

    def test_of_a_rate_more_is_better(self) -> None:
        row = row_of(case(unit="rows/s", more_is_better=True, least_ratio=40), [(900.0, 20.0)])
        assert (row["ratio"], row["met"]) == (45.0, True)

    @pytest.mark.parametrize(
        ("more", "order"),
        [
            ({}, "op oppooppo"),
            ({"warm_up": False}, " oppooppo"),
            ({"pairs": 1}, "op op"),
        ],
    )
    def test_sides_take_turns_after_a_warm_up(self, more: dict[str, Any], order: str) -> None:
        done: list[str] = []

        def note(who: str) -> Callable[[], float]:
            return lambda: done.append(who) or 1.0  # type: ignore[func-returns-value]

        measure(case(ours=note("o"), peer=note("p"), **more), pairs=4)
        assert "".join(done) == order.replace(" ", "")


class TestSyntheticRows:
    def test_a_row_is_the_same_whatever_is_made_before_it(self) -> None:
        (whole,) = synthetic.blocks(0, 50, dimension=8)
        parts = [*synthetic.blocks(9_990, 10_010, dimension=8)]
        (part,) = synthetic.blocks(20, 30, dimension=8)
        assert part.samples == whole.samples[20:30]
        assert np.array_equal(part.vectors, whole.vectors[20:30])
        assert [len(rows.samples) for rows in parts] == [10, 10]
        assert np.allclose(np.linalg.norm(whole.vectors, axis=1), 1)
        assert len({sample.question for sample in whole.samples}) == 50

    def test_the_nearest_are_those_of_a_plain_comparison(self) -> None:
        asked = synthetic.queries(5, dimension=8)
        found = synthetic.nearest(synthetic.blocks(9_900, 10_100, dimension=8), asked, 3)
        vectors = np.vstack([rows.vectors for rows in synthetic.blocks(9_900, 10_100, dimension=8)])
        plain = np.argsort(-(asked @ vectors.T), axis=1)[:, :3]
        assert found == [set(map(int, row)) for row in plain]

    def test_recall_is_the_share_that_was_found(self) -> None:
        assert synthetic.recall([[1, 2], [3, 9]], [{1, 2}, {3, 4}]) == 0.75

    def test_a_question_names_its_row(self) -> None:
        (rows,) = synthetic.blocks(41, 42, dimension=8)
        assert synthetic.number_of(rows.samples[0].question) == 41


class TestMultiplication:
    SHAPES = Shapes(linear=((4, 6),), vocabulary=10, hidden=4, layers=1)

    def test_one_step_forward_and_back(self) -> None:
        examples = [EncodedExample(ids=ids, answer_tokens=1) for ids in ((1, 2, 3), (9, 8, 7))]
        found = needed_flops(self.SHAPES, examples, rank=2)
        frozen, trained = 2 * 6 * 2 * 24, 2 * 6 * 3 * 2 * 10
        attention = 3 * 2 * 2 * 4 * (2 * 9 / 2)
        head = 2 * 2 * 10 * 4 * 2
        assert found == frozen + trained + attention + head

    def test_what_all_samples_share_is_counted_once(self) -> None:
        apart = [EncodedExample(ids=(1, 2, 3, n), answer_tokens=1) for n in (5, 6)]
        together = needed_flops(self.SHAPES, apart, rank=2)
        alone = needed_flops(self.SHAPES, apart[:1], rank=2)
        assert alone < together < 2 * alone


class TestTraining:
    def measured(self, mine: float, theirs: float) -> ttt.Measured:
        return ttt.Measured(
            data_set="set",
            seconds=(2.0, 12.0),
            loop_seconds=(2.0, 8.0),
            nats=(mine, theirs),
            matmul_seconds=1.2,
        )

    def test_rows_of_time_and_share(self) -> None:
        found = [self.measured(1.0, 1.0)] * 5
        whole, loop = ttt.timing_rows(found, "trl", 8, is_main=True)
        share = ttt.share_row(found, torch.bfloat16)
        assert [set(row) for row in (whole, loop, share)] == [KEYS] * 3
        assert [(row["ratio"], row["met"]) for row in (whole, loop)] == [(6.0, True), (4.0, True)]
        assert (share["ratio"], share["target"], share["met"]) == (0.6, "ratio >= 0.5", True)
        assert "bfloat16" in share["peer_name"]

    @pytest.mark.parametrize(
        ("gaps", "met"),
        [
            ([-0.2, -0.1, -0.3], True),
            ([0.3, -0.3, 0.1], True),  # by chance
            ([0.2, 0.21, 0.19], False),
        ],
    )
    def test_a_likelihood_is_worse_only_beyond_chance(self, gaps: list[float], met: bool) -> None:
        row = ttt.likelihood_row([self.measured(1.0 + gap, 1.0) for gap in gaps], "trl")
        low, high = row["spread"]
        assert set(row) == KEYS
        assert row["met"] is met
        assert low <= row["ratio"] <= high

    def test_one_question_says_nothing_about_chance(self) -> None:
        assert ttt.likelihood_row([self.measured(2.0, 1.0)], "trl")["met"]


class TestCommand:
    def test_a_peer_that_is_missing_is_named_with_the_way_out(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'absent'.*pip install.*bench\]"):
            peers.peer("absent.module")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["absent"], "invalid choice"),
            (["switch", "--pairs", "4"], "at least 5"),
            (["growth", "--sizes", "0"], "at least 1"),
            (["search", "--samples", "many"], "--samples"),
        ],
    )
    def test_a_misuse_is_explained(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            command.main(arguments)
        assert message in capsys.readouterr().err

    def test_sizes_are_measured_smallest_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Setup] = []

        def look(name: str, given: Setup) -> Iterator[dict[str, Any]]:
            seen.append(given)
            return iter(())

        monkeypatch.setattr(command, "measured", look)
        monkeypatch.setenv("RTTC_HOME", "/a/home")
        assert command.main(["growth", "--sizes", "30", "10"]) == 0
        assert seen[0].sizes == (10, 30)
        assert seen[0].model == Path("/a/home/models/SmolLM2-135M-Instruct")

    def test_help_has_an_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="0"):
            command.main(["--help"])
        assert setup.EXAMPLE.strip().splitlines()[-1] in capsys.readouterr().out

    def test_rows_become_json_and_a_table(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overhead, "ASKS", 1)
        file = tmp_path / "rows.json"
        assert command.main(["overhead", "--json", str(file)]) == 0
        rows = json.loads(file.read_text(encoding="utf-8"))
        assert [set(row) for row in rows] == [KEYS] * 2
        printed = capsys.readouterr().out
        assert all(row["case"] in printed and row["peer_name"] in printed for row in rows)


class TestSplitData:
    @pytest.fixture
    def solved(self, tmp_path: Path) -> Path:
        path = tmp_path / "solved.jsonl"
        rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(9)]
        rows.append({"question": " 0 + 1? ", "answer": "1"})
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return path

    def test_a_question_is_on_one_side_and_the_rest_are_samples(
        self, solved: Path, tmp_path: Path
    ) -> None:
        assert split_data.main([str(solved), str(tmp_path), "--questions", "4"]) == 0
        asked, samples = (
            [
                json.loads(line)["question"].strip()
                for line in (tmp_path / name).read_text().splitlines()
            ]
            for name in ("questions.jsonl", "samples.jsonl")
        )
        assert len(asked) == 4
        assert set(asked) | set(samples) == {f"{n} + 1?" for n in range(9)}
        assert not set(asked) & set(samples)

    @pytest.mark.parametrize("wanted", [["--questions", "9"], ["--samples", "9"]])
    def test_too_few_rows_are_counted(
        self, wanted: list[str], solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as raised:
            split_data.main([str(solved), str(tmp_path), "--questions", "4", *wanted])
        assert raised.value.code == 2
        assert "9 different questions make at most" in capsys.readouterr().err


class TestPeersOfTheEmbedder:
    def test_bm25_against_a_hand_calculation(self) -> None:
        samples = ["red car", "blue car car", "green tree"]
        encoder = open_encoder("bm25")
        encoder.fit(samples)
        scores = encoder.questions(["Red car?"]) @ encoder.samples(samples).T
        # idf: red ln(1 + 2.5/1.5) = 0.98083, car ln(1 + 1.5/2.5) = 0.47000; mean length 7/3
        first = 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / (7 / 3))) * (0.98083 + 0.47000)
        second = 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / (7 / 3))) * 0.47000
        assert scores.todense().tolist()[0] == pytest.approx([first, second, 0.0], abs=1e-4)

    def test_a_file_with_asked_questions_beside_it_is_not_split(self, tmp_path: Path) -> None:
        row = '{"question": "q%d", "answer": "a", "domain": "d"}\n'
        (tmp_path / "faq.jsonl").write_text("".join(row % n for n in range(10)))
        given = argparse.Namespace(questions=5, samples=4, seed=0)
        samples, asked = nearest_answers.material(tmp_path / "faq.jsonl", given)
        assert (len(samples), len(asked)) == (4, 3)  # at most three tenths are asked
        (tmp_path / "faq_asked.jsonl").write_text(row % 99)
        samples, asked = nearest_answers.material(tmp_path / "faq.jsonl", given)
        assert (len(samples), [one.question for one in asked]) == (10, ["q99"])

    def test_embedders_are_compared_on_the_same_questions(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        row = '{"question": "%s", "answer": "%s"}\n'
        known = [("the red car", "car"), ("a green tree", "tree"), ("my blue sea", "sea")]
        (tmp_path / "faq.jsonl").write_text("".join(row % pair for pair in known))
        (tmp_path / "faq_asked.jsonl").write_text(row % ("whose car is red", "car"))
        command = [str(tmp_path / "faq.jsonl"), "--cache", str(tmp_path / "vectors")]
        command += ["--embedder", "bm25", "--embedder", "characters"]
        command += ["--json", str(tmp_path / "out.json")]
        assert nearest_answers.main(command) == 0
        found = json.loads((tmp_path / "out.json").read_text())["faq"]
        assert list(found) == ["bm25", "characters"]
        assert found["characters"]["nearest"] == [1.0, 0.0, 0.0, 0.0]
        assert found["bm25"]["recall@8"][0] == 1.0
        assert "texts a second" in capsys.readouterr().out
