"""The image and the compose file: linted, and what they name is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typed_commands import commands_in, problem

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.serving.routes.health_routes import __name__ as health

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "compose.yaml"
IMAGE = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text(encoding="utf-8"))
SERVICES = COMPOSE.read_text(encoding="utf-8")


def instruction(name: str) -> list[str]:
    """Return what stands behind each instruction of a name."""
    return re.findall(rf"^{name} (.*)$", IMAGE, re.MULTILINE)


@pytest.mark.skipif(
    shutil.which("hadolint", path=Path(sys.executable).parent) is None, reason="dev"
)
def test_the_image_is_linted() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_fits_its_schema() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            COMPOSE,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_commands_of_image_and_services_exist() -> None:
    (entry,) = instruction("ENTRYPOINT")
    assert json.loads(entry) == ["rttc"]
    commands = [json.loads(words) for words in instruction("CMD")]
    commands += [json.loads(words) for words in re.findall(r"command: (\[.*\])", SERVICES)]
    assert ["db", "migrate"] in commands
    assert ["serve", "--host", "0.0.0.0"] in commands
    typed = re.findall(r"run --rm (rttc .*)$", SERVICES, re.MULTILINE)
    commands += [words for line in typed for words in commands_in(line)]
    assert [found for words in commands if (found := problem(words))] == []


def test_settings_that_are_given_exist() -> None:
    given = set(re.findall(r"\bRTTC_([A-Z_]+)", IMAGE + SERVICES))
    assert {name.lower() for name in given} <= InstallationConfig.model_fields.keys()


def test_the_extras_exist_and_what_is_copied_has_all_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = dict(argument.split("=") for argument in instruction("ARG"))["EXTRAS"].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    package: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    folders = {Path(folder).parts[0] for folder in package["setuptools"]["package-dir"].values()}
    assert not folders & set(left_out)
    assert {"README.md", "LICENSE", "constraints.txt"}.isdisjoint(left_out)


def test_health_is_asked_by_a_route_that_is_there() -> None:
    (check,) = instruction("HEALTHCHECK")
    _, _, code = json.loads(check.partition("CMD ")[2])
    compile(code, "healthcheck", "exec")
    (path,) = re.findall(r"http://127.0.0.1:(?:8008)(/\w+)", code)
    assert f'"{path}"' in Path(sys.modules[health].__file__ or "").read_text(encoding="utf-8")
    assert instruction("EXPOSE") == ["8008"]


def test_it_runs_as_a_user_without_rights() -> None:
    assert instruction("USER") == ["1000"]
    assert "--uid 1000" in IMAGE
