"""What is built: an sdist that makes the wheel, and a wheel whose command runs as anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from postgres_fixtures import open_folder, remove_tree

from rttc_graph.integrations.postgres.embedded_server.programs import Account

ROOT = Path(__file__).parents[2]
BUILD = "import os, setuptools.build_meta as backend\nprint(backend.build_{}(os.environ['MADE']))"
DATA = (
    "rttc_graph/py.typed",
    "rttc_graph/migrations/0001_knowledge_base.sql",
    "rttc_graph/integrations/rewards/shipped/reward.safetensors",
)


def made(kind: str, source: Path, folder: Path) -> Path:
    """Build an `sdist` or a `wheel` of a source tree with the backend at hand."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind)],
        cwd=source,
        env={"PATH": os.environ["PATH"], "MADE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / done.stdout.split()[-1]


def test_the_sdist_makes_a_wheel_whose_command_runs() -> None:
    folder = open_folder()  # one that others may enter
    try:
        source = folder / "source"
        copied(source)
        sdist = made("sdist", source, folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        (unpacked,) = (folder / "unpacked").iterdir()
        wheel = made("wheel", unpacked, folder)
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            assert [name for name in DATA if name not in names] == []
            assert not [name for name in names if name.startswith(("tests", "docs", "examples"))]
            assert len(names) == len(set(names))
        prefix = folder / "venv"
        installed(wheel, prefix)
        shown = run(prefix, "rttc", "--version")
        assert shown == f"rttc-graph {wheel.name.split('-')[1]}\n"
        code = (
            "import sys; sys.modules['pytest'] = None\n"
            "import rttc_graph, rttc_graph.testing, rttc_graph.integrations.rewards as r\n"
            "print(rttc_graph.__file__)"
        )
        assert run(prefix, "python", "-c", code).startswith(str(prefix))
    finally:
        remove_tree(folder)


def copied(target: Path) -> None:
    """Copy what git has of the source, as a clone would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", ":!tests", ":!docs", ":!benchmarks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("the source is no clone")
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if not (source.exists() or source.is_symlink()):
            continue  # deleted and not yet committed
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            (target / name).symlink_to(source.readlink())
        else:
            (target / name).write_bytes(source.read_bytes())


def installed(wheel: Path, prefix: Path) -> None:
    """Install the wheel, without a package index, into an environment that has its dependencies."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    # --ignore-installed: the environment of the tests, which runs pip, keeps its own.
    flags = ["--no-deps", "--no-index", "--ignore-installed", "--no-compile", "--quiet"]
    subprocess.run(
        [*(sys.executable, "-m", "pip", "install", *flags), "--prefix", prefix, wheel], check=True
    )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = prefix / "lib" / version / "site-packages" / "dependencies.pth"
    path.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = prefix / "bin" / "rttc"
    text = command.read_text(encoding="utf-8").splitlines(keepends=True)
    command.write_text(f"#!{prefix}/bin/python\n" + "".join(text[1:]), encoding="utf-8")


def run(prefix: Path, program: str, *arguments: str) -> str:
    """Run a program of the environment, as nobody where that is possible; return its output."""
    done = subprocess.run(
        [prefix / "bin" / program, *arguments],
        user=_user(),
        env={"PATH": f"{prefix}/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _user() -> int | None:
    """Return the id of a user without rights, if root runs the tests and that user can run them."""
    if os.geteuid() != 0:
        return None
    nobody = Account.nobody()
    interpreter = Path(sys.executable).resolve()
    able = nobody.may_run(interpreter) and nobody.may_enter(Path(sysconfig.get_path("purelib")))
    return nobody.uid if able else None
