"""Old names of modules that have moved: importing one gives the module under its new name.

Every name that a module had in 0.1.0 keeps working for one release, with a `DeprecationWarning`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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
    "demo_samples": "jobs.demo_samples",
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
    "integrations.batch_lane": "integrations.concurrency.batch_queue",
    "integrations.clean_text": "support.identity",
    "integrations.langchain.embedder": "integrations.langchain.langchain_embedder",
    "integrations.langchain.huggingface": "integrations.langchain.huggingface_embedder",
    "integrations.langchain.policy_model": "integrations.langchain.chat_policy_model",
    "integrations.loop_thread": "integrations.concurrency.loop_thread",
    "integrations.lora.adapted": "integrations.lora.adapted_model",
    "integrations.lora.examples": "integrations.lora.training_batches",
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
    "survival": "run.backend_failures",
    "testing_inputs": "testing.inputs",
    "testing_knowledge_base": "testing.knowledge_base_contract",
    "testing_memory": "testing.memory_parts",
    "testing_memory_cache": "testing.memory_cache",
    "testing_query_state_cache": "testing.query_state_cache_contract",
    "training_gate": "run.ask_person",
}
"""Old name to new name, both below `rttc_graph.`."""

_PREFIX = "rttc_graph."


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name and hands out the one that has the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name, `None` for every other name."""
        del path, target
        if fullname.removeprefix(_PREFIX) not in MOVED or not fullname.startswith(_PREFIX):
            return None
        return ModuleSpec(fullname, self)

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


def install() -> None:
    """Make the old names importable; calling it again changes nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
