"""What a page lays out: a record, where it lies, and one study of it as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedward.dashboard.federation.place import Place
from fedward.dashboard.federation.reading import Look, Reader


@dataclass(frozen=True)
class Here:
    """What a page lays out."""

    place: Place
    reader: Reader
    look: Look


Sentence = Callable[[Here], str]
