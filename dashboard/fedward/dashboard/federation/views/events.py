"""What happened, newest first, in the words of `fedward coordinator explain`."""

from __future__ import annotations

import re
from typing import Final

import pandas as pd

from fedward.dashboard.federation.views.overview import when
from fedward.dashboard.redaction import OTHER
from fedward.server.chronicle import chronicle
from fedward.server.histories import History

_SEVERAL: Final = re.compile(rf"(?P<before>, | and )?{OTHER}(?:(?:, | and ){OTHER})+")
"""Hospitals that are not told apart, one after the other."""


def _counted(found: re.Match[str]) -> str:
    return f"{' and ' if found['before'] else ''}{found[0].count(OTHER)} other hospitals"


def told(history: History) -> pd.DataFrame:
    """when (UTC), kind, what."""
    rows = [(when(event.at), event.kind, _SEVERAL.sub(_counted, event.words)) for event in reversed(chronicle(history))]
    return pd.DataFrame(rows, columns=["when (UTC)", "kind", "what"])
