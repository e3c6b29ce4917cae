"""Settings of an installation: which source wins, and what a wrong value is answered with."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.installation import configured_policy, local
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.rewards.reward_settings import ClassifierSettings, ServedSettings
from rttc_graph.settings import RttcSettings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable and no file of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("RTTC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_win_over_environment_over_file_over_defaults(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / "rttc.toml").write_text("k = 1\ntau_r = 0.1\nmodel = 'file'\n")
    monkeypatch.setenv("RTTC_K", "2")
    monkeypatch.setenv("RTTC_TAU_R", "0.2")
    monkeypatch.setenv("RTTC_MODEL", "")  # empty is not given

    config = load_config(k=3, tau_r=None)

    assert (config.k, config.tau_r, config.model) == (3, 0.2, "file")
    assert config.policy == "cascade"
    assert config.run_settings().k == 3


def test_the_home_is_a_whole_path(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(empty_folder))
    assert load_config(home=Path("$PLACE/x")).home == empty_folder.resolve() / "x"


@pytest.mark.parametrize(
    ("file", "flags", "words"),
    [
        pytest.param("", {"k": 0}, ["k=0: input should be"], id="out-of-bounds"),
        pytest.param("k = 0", {}, ["k=0: input should be", "(in 'rttc.toml')"], id="of-a-file"),
        pytest.param(
            "", {"k": 0, "spelt": {"k": "--k"}}, ["--k 0: input should be greater"], id="of-a-flag"
        ),
        pytest.param(
            "",
            {"arms": "nearst", "spelt": {"arms": "--arms"}},
            ["--arms 'nearst'", "did you mean 'nearest'"],
            id="typo",
        ),
        pytest.param("k = 'many'", {}, ["k='many'", "valid integer"], id="of-another-type"),
        pytest.param("kay = 8", {}, ["unknown setting 'kay'", "Known are", "tau_r"], id="unknown"),
        pytest.param("k = ", {}, ["cannot read 'rttc.toml'", "Invalid value"], id="not-toml"),
    ],
)
def test_a_wrong_setting_is_named_with_where_it_can_be_set(
    empty_folder: Path, file: str, flags: dict[str, Any], words: list[str]
) -> None:
    (empty_folder / "rttc.toml").write_text(file)
    with pytest.raises(ConfigurationError) as caught:
        load_config(**flags)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_wrong_setting_of_the_environment_is_named_by_its_variable(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / "rttc.toml").write_text("search_n = 3")
    monkeypatch.setenv("RTTC_SEARCH_N", "0")
    with pytest.raises(ConfigurationError, match=r"^RTTC_SEARCH_N='0': input should be greater"):
        load_config()


def test_a_file_that_was_named_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match=r"no settings file 'other\.toml'"):
        load_config(Path("other.toml"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbfk = 3\n", id="byte-order-mark"),
        pytest.param(b"k = 3\r\npolicy = 'rag'\r\n", id="crlf"),
        pytest.param("k = 3\n".encode("utf-16"), id="utf-16"),
    ],
)
def test_a_settings_file_as_editors_write_it(empty_folder: Path, content: bytes) -> None:
    (empty_folder / "rttc.toml").write_bytes(content)
    assert load_config().k == 3


@pytest.mark.parametrize(
    ("content", "word"),
    [
        pytest.param(b"model = 'caf\xe9'", "byte 0xE9", id="latin-1"),
        pytest.param(b"k = [8]", "k=[8]", id="list-for-a-number"),
        pytest.param(b"home = 5", "home=5", id="number-for-a-path"),
        pytest.param(b"[rttc]\nk = 8", "unknown setting 'rttc'", id="table"),
    ],
)
def test_a_settings_file_that_cannot_be_used(empty_folder: Path, content: bytes, word: str) -> None:
    (empty_folder / "rttc.toml").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_config()
    assert word in str(caught.value)


def test_an_address_of_a_wrong_type_is_not_repeated(empty_folder: Path) -> None:
    (empty_folder / "rttc.toml").write_text("database_url = ['postgresql://me:secret@host/db']")
    with pytest.raises(ConfigurationError) as caught:
        load_config()
    assert "database_url" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_bytes_of_adapters_and_trainings_reach_the_trainer(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / "rttc.toml").write_text("max_training_bytes = 7\n")
    monkeypatch.setenv("RTTC_MAX_RESIDENT_BYTES", "9")
    seen: dict[str, Any] = {}

    def note(_: Any, **more: Any) -> Any:
        seen.update(more)
        raise KeyboardInterrupt

    monkeypatch.setattr(configured_policy, "LoraTrainer", note)
    config = load_config(home=empty_folder, database_url="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(KeyboardInterrupt), local.open_local(config):
        pass
    assert (seen["max_training_bytes"], seen["max_resident_bytes"]) == (7, 9)

    with pytest.raises(ConfigurationError, match="max_training_bytes=0"):
        load_config(max_training_bytes=0)


REWARD_TABLES = """
reward = "http://judge:8000"

[reward_served]
route = "score"
model = "judge"
timeout_seconds = 5

[reward_served.headers]
X-Team = "search"

[reward_classifier]
scale = 8.0
midpoint = 5
"""


def test_tables_of_the_reward_model_and_their_variables(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_folder / "rttc.toml").write_text(REWARD_TABLES)
    monkeypatch.setenv("RTTC_REWARD_SERVED__MODEL", "another")
    monkeypatch.setenv("RTTC_REWARD_SERVED__CONCURRENCY", "2")
    monkeypatch.setenv("RTTC_REWARD_CLASSIFIER__DTYPE", "bfloat16")
    config = load_config()
    assert config.reward_served == ServedSettings(
        route="score",
        model="another",
        timeout_seconds=5,
        concurrency=2,
        headers={"X-Team": "search"},
    )
    assert config.reward_classifier == ClassifierSettings(scale=8, midpoint=5, dtype="bfloat16")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            "[reward_served]\nroute = 'rank'",
            ["reward_served.route='rank'", "'classify'", "'rttc.toml'"],
        ),
        ("[reward_served]\nbatch_size = 0", ["batch_size must be at least 1"]),
        (
            "[reward_served]\nspeed = 1",
            ["unknown setting 'reward_served.speed'", "timeout_seconds"],
        ),
        ("[reward_classifier]\nscale = 0", ["scale must be above 0"]),
        ("[reward_classifier]\nscale = inf", ["scale must be above 0 and finite"]),
        ("[reward_classifier]\nmidpoint = nan", ["midpoint must be finite"]),
        ("[reward_classifier]\nscale = 'big'", ["reward_classifier.scale='big'", "valid number"]),
        ("reward_served = 'score'", ["reward_served='score'"]),
    ],
)
def test_a_wrong_setting_of_a_reward_model_is_named(
    empty_folder: Path, table: str, words: list[str]
) -> None:
    (empty_folder / "rttc.toml").write_text(table)
    with pytest.raises(ConfigurationError) as caught:
        load_config()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["reward_api_key = ['secret']", "[reward_served]\nheaders = { Authorization = ['secret'] }"],
)
def test_a_key_of_a_wrong_type_is_not_repeated(empty_folder: Path, line: str) -> None:
    (empty_folder / "rttc.toml").write_text(line)
    with pytest.raises(ConfigurationError, match="reward_") as caught:
        load_config()
    assert "secret" not in str(caught.value)


def test_a_key_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTTC_REWARD_API_KEY", "secret")
    monkeypatch.setenv("RTTC_REWARD_SERVED", '{"headers": {"Authorization": "secret"}}')
    config = load_config()
    assert config.reward_api_key == config.reward_served.headers["Authorization"] == "secret"
    assert "secret" not in repr(config)


def test_the_tables_of_the_how_to_can_be_read(empty_folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/howto/reward-models.md").read_text()
    tables = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(tables) >= 2
    for table in tables:
        (empty_folder / "rttc.toml").write_text(table)
        load_config()


def test_the_environment_and_the_file_list_arms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "rttc.toml"
    file.write_text('arms = ["rag", "nearest"]\n', encoding="utf-8")
    assert load_config(file).run_settings().arms == ("nearest", "rag")
    monkeypatch.setenv("RTTC_ARMS", "nearest, ttt")
    assert load_config(file).run_settings().arms == ("nearest", "ttt")
    assert load_config(file, arms="rag").arms == ("rag",)


LISTS = {
    "arms": ("nearest, rag", ("nearest", "rag")),
    "search_from": ("rag,direct", ("rag", "direct")),
    "ttt_augment": ("grids, names", ("grids", "names")),
    "search_lookup_on": ("tag, reward", ("tag", "reward")),
    "stop_strings": ("a, b", ("a, b",)),
    "search_step_marks": ("a, b", ("a, b",)),
}
"""Settings that are lists, as the environment has them, and what is meant: words with commas, or
one string that may hold commas."""


def test_no_list_is_missing() -> None:
    fields = RttcSettings.model_fields.items()
    assert LISTS.keys() == {name for name, field in fields if isinstance(field.default, tuple)}


@pytest.mark.parametrize("name", LISTS)
def test_the_environment_has_every_list_in_words(
    name: str, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    del empty_folder
    written, meant = LISTS[name]
    monkeypatch.setenv(f"RTTC_{name.upper()}", written)
    assert getattr(load_config().run_settings(), name) == meant
