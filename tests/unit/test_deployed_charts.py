"""The Helm chart, rendered and linted by Helm's own library, and the board of Grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typed_commands import problem

from rttc_graph.cli.commands import serve
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.ray_serve import replica_metrics
from rttc_graph.serving.metrics import Metrics
from rttc_graph.serving.routes.health_routes import health_router
from rttc_graph.serving.serve_options import ServeOptions

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "rttc-graph"
ALL = {
    "serviceMonitor": {"enabled": True},
    "disruptionBudget": {"enabled": True},
    "secretEnv": ["vendor-keys", "more-keys"],
    "models": {"claim": "models"},
    "database": {"poolerUrlKey": "pooler", "readUrlKey": "replica"},
    "settings": {"cache_max_bytes": 4_294_967_296, "traces": True, "tau_r": 0.65},
}


@pytest.fixture(scope="module")
def helm() -> Any:
    return pytest.importorskip("helm_python")


def rendered(helm: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return what the chart makes, by kind."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="prod")
    yaml: Any = pytest.importorskip("yaml")
    made = [yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yaml")]
    return {one["kind"]: one for one in made if one}


def container(made: dict[str, Any], kind: str = "Deployment") -> dict[str, Any]:
    (found,) = made[kind]["spec"]["template"]["spec"]["containers"]
    return cast("dict[str, Any]", found)


@pytest.mark.parametrize("values", [{}, ALL], ids=["defaults", "everything"])
def test_the_chart_is_linted(helm: Any, values: dict[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    worse = [one for one in report["messages"] if one["severity"] > 1]
    assert (report["total_charts_linted"], worse, report["errors"]) == (1, [], [])


def test_only_what_is_asked_for_is_made(helm: Any) -> None:
    assert rendered(helm, {}).keys() == {"Deployment", "Service", "Job"}
    assert rendered(helm, ALL).keys() == {
        "Deployment",
        "Service",
        "Job",
        "ServiceMonitor",
        "PodDisruptionBudget",
    }


def test_commands_settings_and_probes_exist(helm: Any) -> None:
    made = rendered(helm, ALL)
    for kind in ("Deployment", "Job"):
        assert problem(container(made, kind)["args"]) is None
        names = [one["name"] for one in container(made, kind)["env"]]
        assert {name.removeprefix("RTTC_").lower() for name in names} <= set(
            InstallationConfig.model_fields
        )
    pod = container(made)

    async def check() -> None: ...

    routes = {getattr(one, "path", "") for one in health_router(Metrics({}), check).routes}
    probed = {pod[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness")}
    assert probed | {pod["readinessProbe"]["httpGet"]["path"]} <= routes
    assert made["ServiceMonitor"]["spec"]["endpoints"][0]["path"] in routes


def test_settings_are_read_as_they_were_meant(helm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {one["name"]: one.get("value") for one in container(rendered(helm, ALL))["env"]}
    for name, value in env.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    config = InstallationConfig()
    assert (config.cache_max_bytes, config.traces, config.tau_r) == (4_294_967_296, True, 0.65)


def test_a_pod_is_given_the_time_that_its_runs_get(helm: Any) -> None:
    made = rendered(helm, {"drainSeconds": 90, "preStopSeconds": 10})
    grace = made["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= 100
    assert "--drain-seconds=90" in container(made)["args"]


@pytest.mark.parametrize(
    "values",
    [{"replica": 3}, {"settings": {"database_url": "postgresql://u:p@h/d"}}, {"drainSeconds": -1}],
)
def test_values_that_cannot_be_meant_are_refused(helm: Any, values: dict[str, Any]) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError):
        chart.validate_schema(values)


def metrics_text() -> str:
    """Return `/metrics` of a server with all that it can tell."""
    knowledge: Any = SimpleNamespace(database=SimpleNamespace(figures=lambda: {"idle": 1.0}))
    policy: Any = SimpleNamespace(
        resident=lambda: {"adapters": 1.0, "bytes": 2.0},
        adapter_calls=lambda: {"recall_resident": 1.0},
    )
    readings = serve.readings_of(knowledge, policy)
    queues: Any = {"runs": SimpleNamespace(inside=1, waiting=0)}
    metrics = Metrics(queues, readings)
    entries = [
        {"node": "retrieve", "event": "failed", "seconds": 0.1, "detail": {"error": "down"}},
        {"node": "ttt_adapt", "event": "trained", "seconds": 0.1, "detail": {"seconds": 3.0}},
    ]
    one = {"prompt_tokens": 1, "completion_tokens": 2, "trained_tokens": 3}
    output: Any = {
        "arm": "rag",
        "accepted": False,
        "declined": True,
        "seconds": 1.0,
        "candidates": [one],
        "ledger": entries,
        "cache": {"samples": "hit", "adapter": "miss"},
    }
    metrics.count_run(output, policy="cascade")
    metrics.count_unanswered(RuntimeError("words"))
    answer: Any = SimpleNamespace(status=200)
    with metrics.request({"type": "http", "method": "GET"}, answer):
        pass
    return metrics.text().decode()


def replica_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Return the figures that Ray exports of a replica, with their labels."""
    known: dict[str, set[str]] = {}

    def kind(*endings: str) -> Any:
        def made(name: str, _: str, labels: tuple[str, ...] = (), **__: Any) -> None:
            for ending in endings:
                known[name + ending] = {"application", "deployment", "replica", "le", *labels}

        return made

    metrics = SimpleNamespace(
        Counter=kind("_total"), Gauge=kind(""), Histogram=kind("_bucket", "_sum", "_count")
    )
    serve_module = SimpleNamespace(metrics=metrics)
    monkeypatch.setattr(replica_metrics, "serve_library", lambda: serve_module)
    replica_metrics.ReplicaMetrics(None)
    return known


def test_every_figure_of_the_board_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    text = metrics_text()
    known = replica_figures(monkeypatch)
    for name, labels in re.findall(r"^(rttc_\w+)(?:\{(.*?)\})? ", text, re.MULTILINE):
        known.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in asked:
        if "ray_serve_" in expression:
            continue  # Ray's own
        (name,) = set(re.findall(r"rttc_\w+", expression))
        assert name in known, expression
        given = {"job", "instance", *known[name]}
        used = re.findall(r"(\w+)=", expression)
        used += [part for by in re.findall(r"by \((.*?)\)", expression) for part in by.split(", ")]
        assert set(used) <= given, expression
    families = set(re.findall(r"^# TYPE (rttc_\w+) ", text, re.MULTILINE))
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"rttc_\w+", str(asked))
    }
    left_out = {name for name in families - shown if not name.endswith("_created")}
    assert left_out == {"rttc_answers_total"}  # rttc_runs_total says more


def test_what_became_of_a_run_is_counted() -> None:
    text = metrics_text()
    for line in (
        'rttc_runs_total{arm="rag",outcome="declined",policy="cascade"} 1.0',
        'rttc_runs_without_answer_total{error="RuntimeError"} 1.0',
        'rttc_failures_total{node="retrieve"} 1.0',
        "rttc_training_seconds_sum 3.0",
        'rttc_resident{what="adapters"} 1.0',
        'rttc_database_connections{state="idle"} 1.0',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_servers_options_take_a_form_of_logs(log_format: Any) -> None:
    assert ServeOptions(log_format=log_format).log_format == log_format
