"""The tensors that anybody holds, for tests of what is left behind."""

from __future__ import annotations

import gc

from torch import Tensor


def live_tensors() -> list[Tensor]:
    gc.collect()
    return [found for found in gc.get_objects() if issubclass(type(found), Tensor)]
