"""Files that a job writes at its end: checked before the work whose results go there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rttc_graph.errors import ConfigurationError


def check_outputs(*files: Path | str | None, logs: Sequence[Path] = ()) -> None:
    """Refuse files that cannot be written.

    Args:
        files: Files written at the end; `-` and `None` are none.
        logs: Files added to as the work goes on; their folders are made.

    Raises:
        ConfigurationError: Names the file and why.
    """
    for path in [*logs, *(Path(file) for file in files if file not in (None, "-"))]:
        existed = path.exists()
        try:
            if path in logs:
                path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
            if not existed:
                path.unlink()
        except OSError as exc:
            raise ConfigurationError(
                f"cannot write {str(path)!r}: {exc.strerror or exc}; name a file in a folder that "
                "is there and may be written to"
            ) from exc
