"""What a page lays out: a record, where it lies, and one study of it as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedward.dashboard.federation.place import Place
from fedward.dashboard.federation.reading import Look, Reader
from fedward.dashboard.federation.seen import Seen


@dataclass(frozen=True)
class Here:
    """What a page lays out."""

    place: Place
    reader: Reader | Seen
    look: Look

    @property
    def whole(self) -> bool:
        """Whether whoever looks sees every hospital's part."""
        return isinstance(self.reader, Reader)


Sentence = Callable[[Here], str]
