"""Charts as specifications, each made once for the same frame: making and checking one takes a tenth of a second.

What is kept is named by what it was made of and by nothing else, so that it is the same for everybody who may see that frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import pandas as pd

from fedward.dashboard.federation.charts.parts import Chart

Spec = dict[str, Any]
MOST: Final = 256
"""Specifications that are kept, the newest."""

_kept: OrderedDict[tuple[str, ...], Spec] = OrderedDict()
_lock = threading.Lock()


def drawn(make: Callable[..., Chart], *given: Any) -> Spec:
    """What `make(*given)` is to Vega-Lite; not to be changed."""
    key = (make.__module__, make.__qualname__, *(_mark(one) for one in given))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    made: Spec = make(*given).to_dict()
    with _lock:
        _kept[key] = made
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    return made


def _mark(given: Any) -> str:
    """What tells an argument from every other: a frame's columns and cells, or how a plain value is written."""
    if not isinstance(given, pd.DataFrame):
        return repr(given)
    cells = pd.util.hash_pandas_object(given, index=False).to_numpy().tobytes()
    return sha256(repr([(name, str(given[name].dtype)) for name in given.columns]).encode() + cells).hexdigest()
