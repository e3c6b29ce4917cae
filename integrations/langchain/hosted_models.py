"""Chat models and embeddings that a flag names and somebody serves: by provider, or by address.

`PROVIDER:MODEL` goes to LangChain's `init_chat_model` and `init_embeddings`, with the provider's
own environment variable for the key. An address ends with what OpenAI's API stands under, most
often `/v1`; the key for it is in a variable of its own, so that no vendor's key goes elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast
from urllib.parse import parse_qs, urlsplit, urlunsplit

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.support.extras import require
from rttc_graph.support.identity import known_names, likely_name

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel

Role = Literal["model", "reward", "embedder", "scorer"]
"""Part of an installation that a hosted model plays, as its setting or flag is called."""

T = TypeVar("T")

_NO_KEY = "none"
"""Sent to a server for which no key is set; clients insist on some."""

_LISTING_SECONDS = 10.0
"""Longest wait for a server's list of models."""

_PROVIDERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "openai": ("langchain-openai", ("OPENAI_API_KEY",)),
    "anthropic": ("langchain-anthropic", ("ANTHROPIC_API_KEY",)),
    "ollama": ("langchain-ollama", ()),
    "azure_openai": ("langchain-openai", ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY")),
    "google_genai": ("langchain-google-genai", ("GOOGLE_API_KEY", "GEMINI_API_KEY")),
    "google_vertexai": ("langchain-google-vertexai", ()),
    "mistralai": ("langchain-mistralai", ("MISTRAL_API_KEY",)),
    "groq": ("langchain-groq", ("GROQ_API_KEY",)),
    "cohere": ("langchain-cohere", ("COHERE_API_KEY",)),
    "deepseek": ("langchain-deepseek", ("DEEPSEEK_API_KEY",)),
    "xai": ("langchain-xai", ("XAI_API_KEY",)),
    "together": ("langchain-together", ("TOGETHER_API_KEY",)),
    "fireworks": ("langchain-fireworks", ("FIREWORKS_API_KEY",)),
    "openrouter": ("langchain-openrouter", ("OPENROUTER_API_KEY",)),
    "bedrock": ("langchain-aws", ()),
    "bedrock_converse": ("langchain-aws", ()),
    "nvidia": ("langchain-nvidia-ai-endpoints", ("NVIDIA_API_KEY",)),
    "perplexity": ("langchain-perplexity", ("PPLX_API_KEY",)),
    "huggingface": ("langchain-huggingface", ()),
}
"""Providers with their package and the variables that may hold their key. Others are LangChain's to
know; these are what a typo is compared with."""

_BETWEEN_ADDRESSES = re.compile(r"\s*,\s*(?=https?://)", re.IGNORECASE)
_NAMED = re.compile(r"(?P<provider>[A-Za-z][\w-]+):(?!//)(?P<model>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedName:
    """The name of a model that is served somewhere."""

    role: Role
    provider: str
    model: str
    """Empty where the server of an address is to be asked which one it has."""
    url: str | None = None
    """Address that `/models` and `/chat/completions` stand under; `None` for a provider's own."""
    others: tuple[str, ...] = ()
    """Addresses of further servers of the same model."""

    @property
    def text(self) -> str:
        """The name as a setting has it."""
        if self.url is None:
            return f"{self.provider}:{self.model}"
        addresses = ",".join((self.url, *self.others))
        return f"{addresses}#{self.model}" if self.model else addresses

    def servers(self) -> tuple[HostedName, ...]:
        """Return a name for each server."""
        if self.url is None:
            return (self,)
        return tuple(replace(self, url=url, others=()) for url in (self.url, *self.others))

    @property
    def key_variable(self) -> str:
        """Environment variable with the key for an address."""
        return f"RTTC_{self.role.upper()}_API_KEY"


def hosted_name(text: str, role: Role) -> HostedName | None:
    """Return what a setting names, if that is served somewhere; `None` for a local name or folder.

    A reward model behind an address is one that gives scores, unless the address ends with `/v1` or
    names a model: then a chat model is asked for grades.

    Raises:
        ConfigurationError: The address holds a password, or something else than a model.
    """
    if text.lower().startswith(("http://", "https://")):
        name = _at_addresses(_BETWEEN_ADDRESSES.split(text), role)
        gives_scores = role == "reward" and not (name.model or (name.url or "").endswith("/v1"))
        return None if gives_scores else name
    match = _NAMED.fullmatch(text)
    if match is None or Path(text).expanduser().exists():
        return None
    return HostedName(role=role, provider=match["provider"].lower(), model=match["model"])


def _at_addresses(texts: Sequence[str], role: Role) -> HostedName:
    """Return the name of a model at one server or several; one of them may name the model."""
    names = [_at_address(text, role) for text in texts]
    models = {name.model for name in names if name.model}
    if len(names) > 1 and (role != "model" or len(models) > 1):
        raise ConfigurationError(
            f"{role}={','.join(texts)!r}: several servers are for one policy model: write "
            "http://A/v1,http://B/v1#MODEL"
        )
    first, *others = names
    urls = tuple(dict.fromkeys(str(name.url) for name in others if name.url != first.url))
    return replace(first, model=next(iter(models), ""), others=urls)


def _at_address(text: str, role: Role) -> HostedName:
    parts = urlsplit(text)
    if parts.password is not None or parts.username is not None:
        raise ConfigurationError(
            f"{role}: the address holds a name or a password: take it out, and give the key by "
            f"RTTC_{role.upper()}_API_KEY"
        )
    if not parts.hostname:
        raise ConfigurationError(f"{role}={text!r} has no host: write http://HOST:PORT/v1#MODEL")
    asked = parse_qs(parts.query)
    if asked.keys() - {"model"}:
        raise ConfigurationError(
            f"{role}: the address of a model takes ?model=NAME alone, not "
            f"{', '.join(sorted(asked.keys() - {'model'}))}: give a key by "
            f"RTTC_{role.upper()}_API_KEY"
        )
    model = parts.fragment or next(iter(asked.get("model", [])), "")
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/embeddings", "/models"):
        path = path.removesuffix(ending)
    url = urlunsplit((parts.scheme.lower(), parts.netloc, path, "", ""))
    return HostedName(role=role, provider="openai", model=model, url=url)


def resolved(name: HostedName) -> HostedName:
    """Return the name with its model, which a server that has exactly one is asked for.

    Raises:
        ConfigurationError: The server has none, or several.
        BackendError: It cannot be reached, or its list cannot be read.
    """
    if name.url is None or name.model:
        return name
    models = _models_of_any(name)
    if len(models) != 1:
        several = f"has {len(models)} models: {', '.join(models[:20])}" if models else "has none"
        raise ConfigurationError(
            f"{name.role}={name.url!r} names no model, and the server {several}: write "
            f"{name.url}#MODEL"
        )
    return replace(name, model=models[0])


def _models_of_any(name: HostedName) -> list[str]:
    """Return the models that the first server lists that can be reached."""
    *first, last = name.servers()
    for server in first:
        with suppress(BackendError):
            return served_models(server)
    return served_models(last)


def whole_name(text: str, role: Role) -> str:
    """Return what a setting names with its model, as `resolved` does; a local name as it is.

    Raises:
        ConfigurationError: The server of an address has no model, or several.
        BackendError: It cannot be reached, or its list cannot be read.
    """
    name = hosted_name(text, role)
    return text if name is None else resolved(name).text


def served_models(name: HostedName) -> list[str]:
    """Return the models that the server of an address lists.

    Raises:
        BackendError: It cannot be reached, or its list cannot be read.
    """
    httpx: Any = require("httpx", extra="hosted", purpose="models behind an address")
    url = f"{name.url}/models"
    key = os.environ.get(name.key_variable)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(url, headers=headers, timeout=_LISTING_SECONDS).raise_for_status()
        return [str(one["id"]) for one in cast("list[dict[str, Any]]", reply.json()["data"])]
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        key_words = "" if key else f", or set {name.key_variable}"
        raise BackendError(
            f"{url} gave no list of models ({describe(exc)}): the address mostly ends with "
            f"/v1{key_words}",
            retryable=True,
        ) from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise BackendError(
            f"{url} gave something else than OpenAI's list of models: write {name.url}#MODEL"
        ) from exc


def open_chat_model(name: HostedName) -> BaseChatModel:
    """Return the chat model of a name that has its model.

    Raises:
        ConfigurationError: A package or a key is missing, or the provider is unknown.
    """
    if name.url is None:

        def provided() -> BaseChatModel:
            made: BaseChatModel = _langchain("chat_models", name).init_chat_model(name.text)
            return made

        return _opened(name, provided)

    def served() -> BaseChatModel:
        library: Any = require(
            "langchain_openai.chat_models.base", extra="hosted", purpose="models behind an address"
        )
        # Not ChatOpenAI, which sends the limit under a name that few other servers know.
        made: BaseChatModel = library.BaseChatOpenAI(
            model=name.model, base_url=name.url, api_key=_key_for_address(name), stream_usage=True
        )
        return made

    return _opened(name, served)


def open_embeddings(name: HostedName) -> Embeddings:
    """Return the embeddings of a name that has its model.

    Raises:
        ConfigurationError: A package or a key is missing, or the provider is unknown.
    """
    if name.url is None:

        def provided() -> Embeddings:
            made: Embeddings = _langchain("embeddings", name).init_embeddings(name.text)
            return made

        return _opened(name, provided)

    def served() -> Embeddings:
        library: Any = require(
            "langchain_openai", extra="hosted", purpose="embeddings behind an address"
        )
        made: Embeddings = library.OpenAIEmbeddings(
            model=name.model,
            base_url=name.url,
            api_key=_key_for_address(name),
            check_embedding_ctx_length=False,  # it would send tokens of OpenAI's own tokenizer
        )
        return made

    return _opened(name, served)


def missing_key(name: HostedName) -> str | None:
    """Return the variable that should hold a provider's key and does not; else `None`."""
    variables = () if name.url is not None else _PROVIDERS.get(name.provider, ("", ()))[1]
    return None if any(map(os.environ.get, variables)) or not variables else variables[0]


def _key_for_address(name: HostedName) -> str:
    return os.environ.get(name.key_variable) or _NO_KEY


def _langchain(module: str, name: HostedName) -> Any:
    """Return a module of `langchain`, once provider and key are there.

    Raises:
        ConfigurationError: It is not installed, the provider is misspelt, or its key is missing.
    """
    if name.provider not in _PROVIDERS and (meant := likely_name(name.provider, _PROVIDERS)):
        raise ConfigurationError(
            f"{name.role}={name.text!r}: there is no provider {name.provider!r}: did you mean "
            f"{meant}:{name.model}?"
        )
    library = require(f"langchain.{module}", extra="hosted", purpose=f"models like {name.text!r}")
    if (variable := missing_key(name)) is not None:
        raise ConfigurationError(
            f"{name.role}={name.text!r} needs the environment variable {variable}, which is not "
            f"set: export {variable}=…"
        )
    return library


def _opened(name: HostedName, make: Callable[[], T]) -> T:
    try:
        return make()
    except ConfigurationError:
        raise
    except ImportError as exc:
        package, _ = _PROVIDERS.get(
            name.provider, (f"langchain-{name.provider.replace('_', '-')}", ())
        )
        raise ConfigurationError(
            f"{name.role}={name.text!r} needs the package of its provider, which is not installed: "
            f"pip install {package}"
        ) from exc
    except Exception as exc:  # vendors' errors share no base class
        if name.provider not in _PROVIDERS:
            known = known_names(name.provider, sorted(_PROVIDERS), most=len(_PROVIDERS))
            raise ConfigurationError(
                f"{name.role}={name.text!r}: LangChain knows no provider {name.provider!r}. {known}"
            ) from exc
        raise ConfigurationError(
            f"{name.role}={name.text!r} cannot be opened: {describe(exc)}"
        ) from exc
