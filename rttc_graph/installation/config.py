"""Settings of an installation: flags, then environment (`RTTC_…`), then `rttc.toml`.

Only the command line and the exported graph read these; the library is told everything by its
callers. Every run setting of `RttcSettings` can be set here too, as a default for all runs.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.ray_serve.ray_settings import RaySettings
from rttc_graph.integrations.rewards.reward_settings import (
    ClassifierSettings,
    ServedPrmSettings,
    ServedSettings,
)
from rttc_graph.samples.corrections import CorrectionsPolicy
from rttc_graph.settings import RttcSettings, TrainingDtype, domain_settings
from rttc_graph.support.encodings import open_text, undecodable
from rttc_graph.support.identity import known_names
from rttc_graph.support.others_words import problem_words

CONFIG_FILE = "rttc.toml"

_SECRET = (
    "database_url",
    "database_pooler_url",
    "database_read_url",
    "reward_api_key",
    "reward_served.headers",
    "process_reward_served.headers",
)
"""Settings that may hold a password; their values are not repeated in an error."""

SETTING_TABLES = {
    "reward_served": [field.name for field in fields(ServedSettings)],
    "process_reward_served": [field.name for field in fields(ServedPrmSettings)],
    "reward_classifier": [field.name for field in fields(ClassifierSettings)],
    "ray": [field.name for field in fields(RaySettings)],
}
"""Settings that are tables of their own, and what may stand in them."""


class _TomlFile(TomlConfigSettingsSource):
    """The settings file, in any encoding of Unicode, with a byte order mark or without."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        with open_text(Path(file_path)) as file:
            text = file.read()
        if problem := undecodable(text):
            raise ValueError(problem)
        return tomllib.loads(text)


class _Environment(EnvSettingsSource):
    """Variables of the environment; a list is words with commas or its one string, not JSON."""

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        """Return the value of a field as its validators take it."""
        if isinstance(field.default, tuple):
            return value
        return super().prepare_field_value(field_name, field, value, value_is_complex)


class InstallationConfig(BaseSettings, RttcSettings):  # pyright: ignore[reportIncompatibleVariableOverride]  # a superset
    """Settings of an installation: folders, database, models, and the defaults of a run."""

    model_config = SettingsConfigDict(
        env_prefix="RTTC_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    home: Path = Field(
        default=Path("~/.rttc"),
        description="Folder of models, data and the embedded Postgres.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="DSN of a Postgres with pgvector; without it the embedded one is used.",
    )
    database_pooler_url: str | None = Field(
        default=None,
        repr=False,
        description="DSN of a pooler in transaction mode (PgBouncer) before it: all work goes "
        "through it but migrations, index builds and listening, which go to database_url.",
    )
    database_read_url: str | None = Field(
        default=None,
        repr=False,
        description="DSN of a read replica of that Postgres, or of its pooler, for searches; while "
        "it is down or behind, database_url is searched.",
    )
    database_read_lag_seconds: float = Field(
        default=10.0, ge=0, description="How far behind a read replica may be to be searched."
    )
    model: str = Field(
        default="smollm2-135m-instruct",
        min_length=1,
        description="Policy model: a short name of `rttc models list`, a hub name, a folder, "
        "`PROVIDER:MODEL`, or an address such as `http://host/v1#MODEL`; several servers of one "
        "model are addresses with commas between.",
    )
    continues_answers: bool = Field(
        default=False,
        description="Whether a served policy model goes on from the beginning of an answer, as "
        "vLLM and SGLang do; opens beam, search_o1 and the other policies that need it. A local "
        "model always does.",
    )
    embedder: str = Field(
        default="all-minilm-l6-v2",
        min_length=1,
        description="Embedder: a short name, a hub name, a sentence-transformers folder, "
        "`PROVIDER:MODEL`, or an address such as `http://host/v1#MODEL`.",
    )
    reward: str = Field(
        default="minilm-judge",
        min_length=1,
        description="Reward model: `minilm-judge` (ships), `self-confidence`, a folder of `rttc "
        "reward train`, the URL of a server that gives scores, a chat model that grades "
        "(`PROVIDER:MODEL`, `http://host/v1#MODEL`), or a sequence classifier (hub name, folder).",
    )
    process_reward: str = Field(
        default="",
        description="Judge of steps for the policies beam, dvts, particles, lookahead and mcts: a "
        "folder of `rttc reward train --process`, a process reward model (hub name, folder, or the "
        "URL of a vLLM server of one), or a chat model that grades. Empty: none, and they choose "
        "no step.",
    )
    process_reward_served: ServedPrmSettings = Field(
        default_factory=ServedPrmSettings,
        description="How the process reward model behind a URL is called: kind, model, headers, …",
    )
    reward_served: ServedSettings = Field(
        default_factory=ServedSettings,
        description="How the reward model behind a URL is called: route, model, headers, …",
    )
    reward_classifier: ClassifierSettings = Field(
        default_factory=ClassifierSettings,
        description="How a sequence classifier is loaded and read: scale, midpoint, max_tokens, …",
    )
    reward_api_key: str | None = Field(
        default=None,
        repr=False,
        description="Bearer token for the reward model behind a URL; give it by "
        "RTTC_REWARD_API_KEY, not in a file.",
    )
    domains: dict[str, dict[str, Any]] = Field(
        default_factory=dict[str, dict[str, Any]],
        description="Settings of runs in a domain, as tables [domains.NAME]: system_prompt, "
        "rag_template, tau_r, arms and every other setting of a run but tenant and domain.",
    )
    device: str = Field(
        default="auto", description="Device of the models: `auto`, `cpu`, `cuda`, …"
    )
    dtype: str = Field(
        default="auto",
        description="Type of the policy model's weights: `auto` (float32 on the CPU, bfloat16 "
        "elsewhere), a torch type's name, or `int8` or `nf4` for eight or four bits.",
    )
    device_map: Literal["", "auto", "balanced", "balanced_low_0", "sequential"] = Field(
        default="",
        description="How accelerate places a policy model that is too large for one GPU on "
        "several; by default all of it is on `device`.",
    )
    max_memory: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Most memory that its parts may take on each device, such as 0 = '40GiB', cpu "
        "= '60GiB'; leave room for keys, values and trainings.",
    )
    training_dtype: TrainingDtype = Field(
        default="auto",
        description="Type in which trainings multiply by those weights: `auto` (bfloat16 on a CPU "
        "that multiplies in it, else their own), `float32` or `bfloat16`.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="torch threads; by default as many as others leave cores idle.",
    )
    prefix_cache_bytes: int = Field(
        default=128 * 1024**2,
        ge=0,
        description="Most bytes of recent prompts that the local model need not compute again.",
    )
    max_resident_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Most bytes of adapters that the local model keeps in memory; by default an "
        "eighth of what is free beside it, on a CPU 512 MiB at most.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        description="Most rows that the local model generates together; by default 64 on a GPU, "
        "else 16, and only as many as a quarter of the free memory holds.",
    )
    max_training_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Most bytes of weights, gradients and optimiser of the trainings in progress; "
        "a training that needs more is refused. By default 2 GiB, and on a GPU an eighth of what "
        "is free if that is more.",
    )
    trainings_together: int | None = Field(
        default=None,
        ge=1,
        description="Most trainings of different queries that go on in one pass; by default 8 on a "
        "GPU, and on a CPU 1, where more gain nothing.",
    )
    share_between_tenants: bool = Field(
        default=False,
        description="Whether tenants use each other's adapters and kept prompts again. Only for "
        "tenants that may know of each other: the ledger and the time tell that something was "
        "there.",
    )
    thinking: bool | None = Field(
        default=None,
        description="Whether a local reasoning model thinks before it answers; by default its chat "
        "template decides.",
    )
    cache_max_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="Most bytes of adapters kept in the database."
    )
    cache_max_age_days: float = Field(
        default=30.0, gt=0, description="Age at which query states and adapters are dropped."
    )
    runs_max_age_days: float | None = Field(
        default=None,
        gt=0,
        le=36_500,
        description="Age at which finished runs, of all tenants, are deleted; by default they are "
        "kept until `rttc db prune`.",
    )

    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Form of the lines that `rttc serve` logs: words, or an object of JSON a line "
        "with the run's id.",
    )
    traces: bool = Field(
        default=False,
        description="Whether `rttc serve` sends a span for each step of a run by OpenTelemetry "
        "(extra `otel`); OTEL_EXPORTER_OTLP_ENDPOINT says where to.",
    )
    traces_with_texts: bool = Field(
        default=False,
        description="Whether these spans hold questions, answers and words of errors too.",
    )

    ray: RaySettings = Field(
        default_factory=RaySettings,
        description="Replicas of `rttc serve --ray`: min_replicas, max_replicas, trainers, gpus, …",
    )

    corrections: CorrectionsPolicy = Field(
        default="approve",
        description="What becomes of a right answer that comes with a rating: a sample at once "
        "(`store`), a sample after `rttc rate RUN approve`, or nothing (`off`).",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put flags before the environment and the environment before the file."""
        del env_settings, dotenv_settings, file_secret_settings
        return (init_settings, _Environment(settings_cls), _TomlFile(settings_cls))

    @property
    def engine_sizes_file(self) -> Path:
        """File with what fitted the local model's device when the model was last loaded."""
        return self.home / "told" / "engine_sizes.json"

    def run_settings(self, domain: str | None = None) -> RttcSettings:
        """Return the defaults of a run.

        Args:
            domain: Domain of its question, whose own settings hold before the others; `None` for
                the common ones.

        Raises:
            ConfigurationError: The domain's settings are wrong.
        """
        common = RttcSettings.model_validate(
            self.model_dump(include=set(RttcSettings.model_fields))
        )
        if domain is None or domain not in self.domains:
            return common
        return domain_settings(domain, self.domains[domain], common)


def load_config(
    file: Path | None = None, *, spelt: Mapping[str, str] | None = None, **flags: Any
) -> InstallationConfig:
    """Return the installation's settings.

    Args:
        file: A TOML file; by default `rttc.toml` in the current folder, if there is one.
        spelt: Flags of the command line as they are typed, by the settings that they set, for
            errors.
        flags: What was given on the command line; `None` means not given.

    Raises:
        ConfigurationError: A value is out of its bounds, a name is unknown, or the file cannot be
            read.
    """
    path = file or Path(CONFIG_FILE)
    if file is not None and not file.is_file():
        raise ConfigurationError(f"there is no settings file {str(file)!r}")
    bound = type(
        "InstallationConfig",
        (InstallationConfig,),
        {"model_config": SettingsConfigDict(toml_file=path), "__doc__": InstallationConfig.__doc__},
    )
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        config: InstallationConfig = bound(**given)
    except ConfigurationError as exc:
        cause = exc.__cause__
        if not isinstance(cause, ValidationError):
            raise
        flag_of = {name: (spelt or {}).get(name, "") for name in given}
        raise ConfigurationError(_explain(cause, path, flag_of)) from exc
    except (ValueError, OSError) as exc:  # TOML that cannot be parsed, a file not to be read
        raise ConfigurationError(f"cannot read {str(path)!r}: {exc}") from exc
    home = Path(os.path.expandvars(config.home)).expanduser().resolve()
    whole = config.model_copy(update={"home": home, "domains": _nearer(config, given)})
    for domain in whole.domains:
        try:
            whole.run_settings(domain)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{exc} (in {str(path)!r})") from exc
    return whole


def _nearer(config: InstallationConfig, flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings by domain without those that a flag or the environment sets.

    Both hold before the file, in which the domains are.
    """
    variables = {name.upper() for name, value in os.environ.items() if value}
    names = RttcSettings.model_fields.keys()
    set_nearer = {name for name in names if name in flags or f"RTTC_{name.upper()}" in variables}
    if set_nearer & {"arms", "first_arm"}:
        set_nearer |= {"arms", "first_arm"}
    return {
        domain: {name: value for name, value in own.items() if name not in set_nearer}
        for domain, own in config.domains.items()
    }


def _explain(exc: ValidationError, path: Path, flag_of: Mapping[str, str]) -> str:
    """Return what is wrong with a value, under the name by which it was set.

    Args:
        exc: The problem.
        path: The settings file.
        flag_of: Flags, as they are typed or empty, by the settings that they set.
    """
    problem = exc.errors()[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = SETTING_TABLES.get(name.partition(".")[0], InstallationConfig.model_fields)
        last = name.rpartition(".")[2]
        unknown = known_names(last, sorted(known), most=len(known))
        return f"{str(path)!r} has an unknown setting {name!r}: {unknown}"
    is_secret = name.startswith(_SECRET)
    words = problem["msg"].lower() if is_secret else problem_words(problem)
    shown = "…" if is_secret else repr(problem["input"])
    if not name:  # of several settings together, which the words name
        return words
    own = f"{name}="
    said = words.removeprefix(own) if words.startswith(own) else f"{shown}: {words}"
    setting = str(problem["loc"][0])
    if setting in flag_of:
        return f"{flag_of[setting]} {said}" if flag_of[setting] else f"{own}{said}"
    variables = {variable.upper() for variable, value in os.environ.items() if value}
    for env in (f"RTTC_{name.upper().replace('.', '__')}", f"RTTC_{setting.upper()}"):
        if env in variables:
            return f"{env}={said}"
    return f"{own}{said} (in {str(path)!r})"
