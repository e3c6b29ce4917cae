"""`python -m rttc_graph`, and the `rttc` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its extra, say how to install it."""
    try:
        from rttc_graph.cli.app import main as run  # noqa: PLC0415 - an extra may be missing
    except ModuleNotFoundError as exc:
        root = (exc.name or "rttc_graph").partition(".")[0]
        if root == "rttc_graph" or root in sys.stdlib_module_names:  # pip has none of these
            raise
        sys.exit(f"rttc: {exc.name!r} is missing: pip install 'rttc-graph[cli,postgres,local]'")
    from rttc_graph.integrations.concurrency.worker_threads import leave  # noqa: PLC0415 - as above

    leave(run())


if __name__ == "__main__":
    main()
