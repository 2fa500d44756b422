"""All that a page of the monitor sends to a browser, taken apart until it is text: elements, charts, tables, downloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.message import Message
from laidout import script
from opened import all_tables
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.local_script_runner import LocalScriptRunner

JOINER = "\u2060"


@dataclass
class Sent:
    """What went out: `texts` as they are read, `files` as they are downloaded."""

    texts: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def all(self) -> str:
        """Everything, without the signs that keep text plain."""
        parts = [*self.texts, *(one.decode(errors="replace") for one in self.files)]
        return "\n".join(parts).replace("\\", "").replace(JOINER, "")


def sent(name: str, place: Path, act: Callable[[AppTest], object] | None = None, **query: str) -> tuple[Sent, AppTest]:
    """A page of a record, laid out without a browser, and all that it sent; `act` is done on it, and it is laid out again."""
    found = Sent()
    with pytest.MonkeyPatch.context() as patch, all_tables():
        _listen(patch, found)
        app = AppTest.from_function(script, kwargs={"name": name, "named": str(place)}, default_timeout=120)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        if act is not None:
            act(app)
            app.run()
    assert not app.exception, app.exception
    return found, app


def _listen(patch: pytest.MonkeyPatch, found: Sent) -> None:
    messages, add = LocalScriptRunner.forward_msgs, MediaFileManager.add

    def heard(self: LocalScriptRunner) -> list[Any]:
        made = messages(self)
        for message in made:
            found.texts.extend(texts(message))
        return made

    def kept(self: MediaFileManager, data: Any, *given: Any, **named: Any) -> str:
        found.files.append(data if isinstance(data, bytes) else str(data).encode())
        return add(self, data, *given, **named)

    patch.setattr(LocalScriptRunner, "forward_msgs", heard)
    patch.setattr(MediaFileManager, "add", kept)


def texts(message: Message) -> Iterator[str]:
    """Every text within a message; tables and charts cell by cell."""
    for described, value in message.ListFields():
        many = (
            described.is_repeated if hasattr(described, "is_repeated") else described.label == described.LABEL_REPEATED
        )
        if many and described.message_type is not None and described.message_type.GetOptions().map_entry:
            yield from (str(key) for key in value)
            values = list(value.values())
        else:
            values = list(value) if many else [value]
        for one in values:
            if isinstance(one, Message):
                yield from texts(one)
            elif isinstance(one, bytes):
                yield from _bytes(one)
            elif isinstance(one, str):
                yield from _text(one)
            elif isinstance(one, float):
                yield repr(one)


def _text(text: str) -> Iterator[str]:
    yield text
    if text[:1] in "{[":
        try:
            said = json.loads(text)
        except ValueError:
            return
        yield from _plain(said)


def _plain(said: Any) -> Iterator[str]:
    if isinstance(said, dict):
        for name, one in said.items():
            yield str(name)
            yield from _plain(one)
    elif isinstance(said, list):
        for one in said:
            yield from _plain(one)
    else:
        yield repr(said) if isinstance(said, float) else str(said)


def _bytes(data: bytes) -> Iterator[str]:
    """A table's cells; bytes that are no table, as text."""
    try:
        table = pa.ipc.open_stream(data).read_all()
    except pa.ArrowInvalid:
        yield data.decode(errors="replace")
        return
    yield from table.column_names
    for column in table.columns:
        for cell in column.to_pylist():
            yield repr(cell) if isinstance(cell, float) else str(cell)
