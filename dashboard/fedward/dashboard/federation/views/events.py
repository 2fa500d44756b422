"""What happened, newest first, in the words of `fedward coordinator explain`."""

from __future__ import annotations

import pandas as pd

from fedward.dashboard.federation.views.overview import when
from fedward.server.chronicle import chronicle
from fedward.server.histories import History


def told(history: History) -> pd.DataFrame:
    """when (UTC), kind, what."""
    rows = [(when(event.at), event.kind, event.words) for event in reversed(chronicle(history))]
    return pd.DataFrame(rows, columns=["when (UTC)", "kind", "what"])
