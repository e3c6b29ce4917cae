"""The graph that `langgraph.json` exports: local, configured by environment and `rttc.toml`.

It is made at import, as the LangGraph server wants it, but nothing is opened before the first run.
It carries no checkpointer, since the server brings its own.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack

from rttc_graph.local import open_local

_open = ExitStack()
atexit.register(_open.close)
graph = _open.enter_context(open_local()).graph
