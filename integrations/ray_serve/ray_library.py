"""Ray and Ray Serve, imported when they are needed; Ray has no types that could be relied on."""

from __future__ import annotations

import os
from typing import Any

from rttc_graph.support.extras import require

__all__ = ("ray_library", "rpc_error", "serve_library")

_PURPOSE = "replicas on a cluster"


def ray_library() -> Any:
    """Return the module `ray`; it reports no usage to its makers unless the host wants it.

    Raises:
        ConfigurationError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return require("ray", extra="ray", purpose=_PURPOSE)


def serve_library() -> Any:
    """Return the module `ray.serve`.

    Raises:
        ConfigurationError: It is not installed.
    """
    ray_library()
    return require("ray.serve", extra="ray", purpose=_PURPOSE)


def rpc_error() -> type[Exception]:
    """Return the error of gRPC, over which calls go to replicas.

    Raises:
        ConfigurationError: It is not installed.
    """
    found: type[Exception] = require("grpc", extra="ray", purpose=_PURPOSE).RpcError
    return found
