"""Old names of modules that have moved, and of what was renamed in them.

Importing a module by its old name gives the module under its new name. Old names keep working for
one release, with a `DeprecationWarning`; those of methods warn of nothing.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

MOVED = {
    "adapters": "run.adapter_source",
    "answering": "run.answering",
    "api_keys": "protocols.api_keys",
    "asking": "installation.ask_question",
    "budget": "run.budget",
    "calibration.fitting": "calibration.map_fitting",
    "calibration.maps": "integrations.rewards.calibrated.probability_maps",
    "calibration.plot": "calibration.threshold_plot",
    "calibration.reward": "integrations.rewards.calibrated.calibrated_reward",
    "cli.ask": "cli.commands.ask",
    "cli.cache": "cli.commands.cache",
    "cli.calibrate": "cli.commands.calibrate",
    "cli.db": "cli.commands.db",
    "cli.demo": "cli.commands.demo",
    "cli.eval_real": "jobs.run_policies",
    "cli.eval_rows": "jobs.collect_rows",
    "cli.evaluate": "cli.commands.evaluate",
    "cli.failures": "cli.error_exit",
    "cli.kb": "cli.commands.kb",
    "cli.keys": "cli.commands.keys",
    "cli.models": "cli.commands.models",
    "cli.options": "cli.shared_options",
    "cli.reward": "cli.commands.reward",
    "cli.serve": "cli.commands.serve",
    "cli.session": "cli.command_context",
    "cli.stats": "cli.commands.stats",
    "cli.status": "cli.commands.status",
    "config": "installation.config",
    "data": "samples",
    "data.formats": "samples.formats",
    "data.rows": "samples.rows",
    "data.samples": "samples.source",
    "evaluation.arm_rows": "evaluation.evaluation_rows",
    "evaluation.figures": "evaluation.policy_figures",
    "evaluation.marks": "support.marks",
    "evaluation.numbers": "support.numbers",
    "evaluation.plot": "evaluation.accuracy_plot",
    "evaluation.records": "evaluation.evaluation_rows",
    "evaluation.runner": "evaluation.collect",
    "evaluation.summary": "evaluation.policy_figures",
    "extras": "support.extras",
    "identity": "support.identity",
    "ingest": "samples.ingest",
    "installation.correcting": "installation.knowledge",
    "integrations.batch_lane": "integrations.concurrency.batch_queue",
    "integrations.clean_text": "support.identity",
    "integrations.langchain.embedder": "integrations.langchain.langchain_embedder",
    "integrations.langchain.huggingface": "integrations.langchain.huggingface_embedder",
    "integrations.langchain.policy_model": "integrations.langchain.chat_policy_model",
    "integrations.loop_thread": "integrations.concurrency.loop_thread",
    "integrations.lora.adapted": "integrations.lora.adapted_model",
    "integrations.lora.examples": "integrations.lora.training_batches",
    "integrations.lora.free_memory": "integrations.transformers.free_memory",
    "integrations.lora.layout": "integrations.lora.adapter_layout",
    "integrations.lora.publishing": "integrations.lora.publishing_trainer",
    "integrations.lora.residency": "integrations.lora.resident_adapters",
    "integrations.lora.serialization": "integrations.lora.adapter_serialization",
    "integrations.lora.trainer": "integrations.lora.lora_trainer",
    "integrations.lora.training": "integrations.lora.training_loop",
    "integrations.postgres.adapter_lease": "integrations.postgres.cache.adapter_lease",
    "integrations.postgres.adapter_rows": "integrations.postgres.cache.adapter_rows",
    "integrations.postgres.api_keys": "integrations.postgres.api_key_store",
    "integrations.postgres.connecting": "integrations.postgres.connection_setup",
    "integrations.postgres.data_folder": "integrations.postgres.embedded_server.data_folder",
    "integrations.postgres.embedded": "integrations.postgres.embedded_server.embedded_postgres",
    "integrations.postgres.embedder_record": "integrations.postgres.samples.embedder_record",
    "integrations.postgres.errors": "integrations.postgres.psycopg_errors",
    "integrations.postgres.knowledge_base": "integrations.postgres.samples.postgres_knowledge_base",
    "integrations.postgres.lock_files": "integrations.postgres.embedded_server.lock_files",
    "integrations.postgres.programs": "integrations.postgres.embedded_server.programs",
    "integrations.postgres.query_state_cache": "integrations.postgres.cache.postgres_query_state_cache",
    "integrations.postgres.reembedding": "integrations.postgres.samples.reembedding",
    "integrations.postgres.sample_index": "integrations.postgres.samples.sample_index",
    "integrations.postgres.sample_rows": "integrations.postgres.samples.sample_rows",
    "integrations.postgres.sample_search": "integrations.postgres.samples.sample_search",
    "integrations.postgres.server_process": "integrations.postgres.embedded_server.server_process",
    "integrations.postgres.session": "integrations.postgres.database_session",
    "integrations.postgres.stored_embedder": "integrations.postgres.samples.stored_embedder",
    "integrations.postgres.watch": "integrations.postgres.silence_watch",
    "integrations.postgres.threads": "integrations.concurrency.daemon_threads",
    "integrations.remote.knowledge_base": "integrations.remote.remote_knowledge_base",
    "integrations.rewards.callable": "integrations.rewards.callable_reward",
    "integrations.rewards.checks": "integrations.rewards.reward_checks",
    "integrations.rewards.cross_encoder": "integrations.rewards.cross_encoder_reward",
    "integrations.rewards.llm_judge": "integrations.rewards.chat_judge",
    "integrations.rewards.sequence_classifier": "integrations.rewards.sequence_classifier_reward",
    "integrations.rewards.served": "integrations.rewards.served_reward",
    "integrations.rewards.trained.folder": "integrations.rewards.trained.reward_folder",
    "integrations.rewards.trained.learning": "integrations.rewards.trained.network_learning",
    "integrations.rewards.trained.pairs": "integrations.rewards.trained.token_pairs",
    "integrations.rewards.trained.reward": "integrations.rewards.trained.network_reward",
    "integrations.rewards.trained.spec": "integrations.rewards.trained.reward_spec",
    "integrations.transformers.arrangement": "integrations.transformers.weight_files.arrangement",
    "integrations.transformers.batch": "integrations.transformers.decoding.running_batch",
    "integrations.transformers.catalog": "integrations.transformers.weight_files.catalog",
    "integrations.transformers.chat_model": "integrations.transformers.chat_transformers",
    "integrations.transformers.conversion": "integrations.transformers.weight_files.conversion",
    "integrations.transformers.decode": "integrations.transformers.decoding.decoder",
    "integrations.transformers.detokenise": "integrations.transformers.decoding.detokenise",
    "integrations.transformers.drafts": "integrations.transformers.decoding.drafts",
    "integrations.transformers.engine": "integrations.transformers.local_engine",
    "integrations.transformers.failures": "integrations.transformers.torch_errors",
    "integrations.transformers.lane": "integrations.transformers.model_lane",
    "integrations.transformers.policy_model": "integrations.transformers.transformers_policy_model",
    "integrations.transformers.prefixes": "integrations.transformers.decoding.prompt_cache",
    "integrations.transformers.sampling": "integrations.transformers.decoding.token_sampling",
    "integrations.transformers.threads": "integrations.transformers.torch_threads",
    "integrations.transformers.weights": "integrations.transformers.weight_files.resolve",
    "integrations.transformers.wheels": "integrations.transformers.weight_files.wheels",
    "integrations.worker_threads": "integrations.concurrency.worker_threads",
    "json_log": "support.json_lines",
    "knowledge": "installation.knowledge",
    "knowledge_wire": "samples.wire",
    "ledger": "run.ledger",
    "local": "installation.local",
    "logistic": "support.logistic",
    "needed_models": "installation.needed_models",
    "policies": "run.policies",
    "prompts": "run.prompts",
    "recalling": "run.recalling",
    "reward_training.drawing": "reward_training.candidate_sampling",
    "reward_training.figures": "reward_training.reward_metrics",
    "reward_training.fitting": "reward_training.probability_fit",
    "reward_training.job": "jobs.train_reward",
    "reward_training.rows": "reward_training.candidate_rows",
    "rewards": "installation.configured_reward",
    "scope": "run.scope",
    "selection": "samples.selection",
    "serving.access": "serving.admission.route_rights",
    "serving.answers": "serving.routes.response_models",
    "serving.app": "serving.http_app",
    "serving.document": "serving.openapi",
    "serving.front": "serving.admission.admission",
    "serving.gate": "serving.admission.request_queue",
    "serving.health_routes": "serving.routes.health_routes",
    "serving.kb_routes": "serving.routes.kb_routes",
    "serving.keyring": "serving.admission.authentication",
    "serving.langserve_routes": "serving.routes.langserve_routes",
    "serving.openai_routes": "serving.routes.openai_routes",
    "serving.openai_schema": "serving.routes.openai_schema",
    "serving.options": "serving.serve_options",
    "serving.refusals": "serving.http_errors",
    "support.validation": "support.others_words",
    "survival": "run.backend_failures",
    "testing_inputs": "testing.inputs",
    "testing_knowledge_base": "testing.knowledge_base_contract",
    "testing_memory": "testing.memory_parts",
    "testing_memory_cache": "testing.memory_cache",
    "testing_query_state_cache": "testing.query_state_cache_contract",
    "training_gate": "run.ask_person",
}
"""Old name to new name, both below `rttc_graph.`."""

RENAMED: dict[str, dict[str, str]] = {
    "calibration.map_fitting": {
        "Calibration": "FittedCalibration",
        "FittedCalibration.map_of": "map_for",
        "fold_of": "fold_number",
    },
    "evaluation.policy_figures": {
        "Question": "EvaluatedQuestion",
        "figures": "policy_figures",
        "questions_of": "evaluated_questions",
    },
    "evaluation.replay": {"Outcome": "ReplayedRun", "shares_of": "arm_shares"},
    "evaluation.report": {"name_of": "group_name"},
    "installation.local": {"open_engine": "installation.configured_policy:open_engine"},
    "integrations.concurrency.batch_queue": {"BatchLane": "BatchQueue", "BatchQueue.run": "submit"},
    "integrations.concurrency.loop_thread": {"LoopThread.run": "await_on_loop"},
    "integrations.lora.adapter_layout": {
        "AdapterLayout.first_of": "first_adapted",
        "layout_of": "adapter_layout",
    },
    "integrations.lora.row_terms": {"terms_of": "combine_adapters"},
    "integrations.lora.training_batches": {"StepLimits.of": "from_layout"},
    "integrations.lora.training_loop": {
        "Watch": "TrainingWatch",
        "epoch_of": "epoch_steps",
        "learning_rate_of": "learning_rate_for",
    },
    "integrations.lora.training_terms": {"FrozenLinear.of": "from_module"},
    "integrations.postgres.api_key_store": {"PostgresApiKeys": "PostgresApiKeyStore"},
    "integrations.postgres.database": {
        "Database.run": "execute_work",
        "Database.run_here": "execute_work_here",
    },
    "integrations.postgres.database_session": {"Session": "DatabaseSession"},
    "integrations.postgres.samples.embedder_record": {"EmbedderIdentity.of": "from_embedder"},
    "integrations.postgres.samples.reembedding": {"Reembedding.run": "replace_vectors"},
    "integrations.postgres.samples.sample_rows": {
        "SampleRow.of": "from_sample",
        "ids_of": "sample_ids",
    },
    "integrations.postgres.samples.sample_search": {
        "Question": "SampleQuery",
        "SampleSearch.run": "find",
        "Scope": "SearchScope",
        "SearchScope.of": "from_rows",
    },
    "integrations.rewards.calibrated.calibrated_reward": {
        "MapOf": "ProbabilityMap",
        "map_of": "probability_map",
    },
    "integrations.rewards.calibrated.probability_maps": {
        "Labelled": "calibration.map_fitting:Labelled",
        "fit_map": "calibration.map_fitting:fit_map",
        "log_loss": "calibration.map_fitting:log_loss",
    },
    "integrations.rewards.reward_checks": {"digest_of": "reward_fingerprint"},
    "integrations.rewards.trained.reward_spec": {"Calibration": "LogitMap"},
    "integrations.rewards.trained.signals": {"signals_of": "answer_signals"},
    "integrations.transformers.decoding.prompt_cache": {"PrefixCache": "PromptCache"},
    "integrations.transformers.loading": {"fingerprint_of": "weights_fingerprint"},
    "integrations.transformers.local_engine": {"LocalEngine.run": "in_lane"},
    "integrations.transformers.model_lane": {"Lane": "ModelLane"},
    "protocols": {"ScopedRewardModel": "RewardModel"},
    "protocols.api_keys": {"digest_of": "key_digest"},
    "reward_training.candidate_rows": {
        "candidate_of": "graph_candidate",
        "digest_of": "row_digest",
    },
    "reward_training.candidate_sampling": {
        "DrawSettings": "SamplingSettings",
        "Drawer": "CandidateSampler",
        "group_of": "question_group",
    },
    "reward_training.probability_fit": {"fit_calibrations": "fit_logit_maps"},
    "reward_training.reward_metrics": {"Figures": "RewardMetrics", "figures": "reward_metrics"},
    "run.budget": {"Allowance.of": "from_spent"},
    "run.policies": {"Choice": "NextStep"},
    "samples.wire": {
        "Changed": "ChangeReply",
        "Found": "SearchReply",
        "Missing": "MissingReply",
        "Stats": "StatsReply",
    },
    "serving.admission.admission": {"Front": "Admission"},
    "serving.admission.authentication": {
        "Keyring": "Authentication",
        "caller_of": "request_caller",
    },
    "serving.admission.request_queue": {"Gate": "RequestQueue"},
    "serving.admission.route_rights": {
        "Access": "RouteRights",
        "Lane": "QueueName",
        "access_of": "needed_rights",
    },
    "serving.http_app": {"Offer": "ServedParts"},
    "serving.http_errors": {"Refusal": "HttpError", "refusal_of": "as_http_error"},
    "serving.metrics": {"Metrics.run": "count_run"},
    "serving.routes.openai_schema": {
        "Choice": "CompletionChoice",
        "TextPart": "ContentPart",
        "Usage.of": "from_output",
    },
    "serving.routes.response_models": {
        "Answer.of": "from_output",
        "Question": "QuestionBody",
        "Report.of": "from_output",
    },
}
"""Old names of functions, classes and methods to the new ones, by module as it is named now. A method
has its class before it, as that is named now; what has gone to another module has that module
before it, as in `module:name`."""

_PREFIX = "rttc_graph."


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name and hands out the one that has the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a moved module or one with old names, `None` for every other."""
        name = fullname.removeprefix(_PREFIX)
        if name == fullname:
            return None
        if name in MOVED:
            return ModuleSpec(fullname, self)
        if name not in RENAMED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _WithOldNames(fullname, spec.loader.path)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module under its new name and return it."""
        new = _PREFIX + MOVED[spec.name.removeprefix(_PREFIX)]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which the import system has just replaced."""
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


class _WithOldNames(SourceFileLoader):
    """Loads a module and adds the old names of what is in it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _add_old_names(module)


def _add_old_names(module: ModuleType) -> None:
    names = RENAMED[module.__name__.removeprefix(_PREFIX)]
    for old, new in names.items():
        owner, _, method = old.partition(".")
        if method:
            kind = getattr(module, owner)
            setattr(kind, method, inspect.getattr_static(kind, new))
    module.__dict__["__getattr__"] = _old_names(module, names)


def _old_names(module: ModuleType, names: Mapping[str, str]) -> Any:
    """Return the `__getattr__` of a module, which Python asks for what the module lacks."""

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        elsewhere, _, new = names[name].rpartition(":")
        home = importlib.import_module(_PREFIX + elsewhere) if elsewhere else module
        text = f"{module.__name__}.{name} is now {home.__name__}.{new}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(home, new)

    return __getattr__


def install() -> None:
    """Make the old names importable; calling it again changes nothing."""
    if any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, MovedModules())
    for name in RENAMED:  # some are imported before this package calls this function
        if module := sys.modules.get(_PREFIX + name):
            _add_old_names(module)
