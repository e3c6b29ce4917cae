"""A Ray cluster that is started on this machine, or joined."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.ray_serve.ray_library import ray_library, serve_library

__all__ = ("HERE", "open_cluster")

HERE = "here"
"""Address that stands for a cluster which is started on this machine and ends with this process."""

_OBJECT_STORE_BYTES = 200 * 2**20
"""Memory for results in a cluster that is started here: answers and vectors are small."""

_PROBE_SECONDS = 5.0
"""Longest wait for a head node to accept a connection."""


@contextmanager
def open_cluster(address: str = HERE) -> Generator[None]:
    """Start a cluster on this machine, or join one; leave it as it was found.

    A process that is connected already stays so. What runs on a cluster that was joined goes on
    running there; one that was started here ends.

    Args:
        address: `here`, `auto` for the cluster that this machine is a node of, or its head's
            `HOST:PORT`. `here` joins the cluster of the variable `RAY_ADDRESS` where it is set.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster cannot be started or reached.
    """
    ray, serve = ray_library(), serve_library()
    wanted = (os.environ.get("RAY_ADDRESS") or HERE) if address == HERE else address
    is_connected = ray.is_initialized()
    if not is_connected:
        _connect(ray, wanted)
    try:
        serve.start(proxy_location="Disabled")  # nobody but our handles calls the replicas
        yield
        if wanted == HERE and not is_connected:
            serve.shutdown()
    finally:
        if not is_connected:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    common = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address == HERE:
        with _translated("start a Ray cluster on this machine"):
            ray.init(
                address="local",  # and not one that somebody else has started here
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **common,
            )
        return
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"--ray {address!r} is the address of Ray Client, which cannot stream trainings: run "
            "rttc serve on a node of the cluster and give the head's HOST:PORT, or auto"
        )
    if address != "auto":
        _check_reachable(address)
    with _translated(f"join the Ray cluster at {address!r}"):
        ray.init(address=address, **common)


def _check_reachable(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigurationError(
            f"--ray {address!r} is no address: give the head's HOST:PORT, such as 10.0.0.5:6379, "
            "or auto on a node of the cluster, or nothing to start one here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except (OSError, OverflowError) as exc:
        raise ConfigurationError(
            f"no Ray cluster answers at {address!r} ({exc}): start its head with `ray start "
            "--head`, or give --ray without an address to start one here"
        ) from exc


@contextmanager
def _translated(action: str) -> Generator[None]:
    try:
        yield
    except Exception as exc:
        said = str(exc).strip().partition("\n")[0]
        raise ConfigurationError(
            f"could not {action}: {said}. A machine that joins must be a node of the cluster "
            "(`ray start --address HOST:PORT`), with the same versions of Ray and Python"
        ) from exc
