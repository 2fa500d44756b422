"""How a message to a site ends: the payload of its reply, or the name of what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

RECORD: Final = "fedward"
FIELD: Final = "payload"
MESSAGE_TYPE: Final = "query.fedward"
NODE_OFFLINE: Final = "node-offline"
NODE_UNKNOWN: Final = "node-unknown"
MESSAGE_LOST: Final = "message-lost"
REPLY_LOST: Final = "reply-lost"
REPLY_INCOMPLETE: Final = "reply-incomplete"
REPLY_MALFORMED: Final = "reply-malformed"
REPLY_TOO_LARGE: Final = "reply-too-large"
SITE_ERROR: Final = "site-error"

# What a site's own loop may say; any other text of a site is not repeated.
_SITE_CODES: Final = frozenset({"handler-failed", "request-malformed"})
_FLOWER_CODES: Final = {
    ErrorCode.MESSAGE_UNAVAILABLE: MESSAGE_LOST,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: REPLY_LOST,
    ErrorCode.NODE_UNAVAILABLE: NODE_OFFLINE,
}


class ReplyError(Exception):
    """A reply that will never be one."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Upload:
    """A reply that is announced and may still be on its way to the SuperLink."""

    reply_id: str
    object_ids: list[str]
    deadline: float
    contents: dict[str, bytes] = field(default_factory=dict)


def failure_of(error: Any) -> str:
    """The name of a failure; what a site wrote is repeated only if it is one of our codes."""
    if error.code in _FLOWER_CODES:
        return _FLOWER_CODES[error.code]
    return str(error.reason) if error.reason in _SITE_CODES else SITE_ERROR


def payload_of(upload: Upload, max_bytes: int) -> bytes:
    """The one payload of a reply. Raises: ReplyError if it is anything but that, or over the bound."""
    try:
        message = inflate_object_from_contents(upload.reply_id, upload.contents)
        record = message.content[RECORD]
        value = record[FIELD] if set(message.content) == {RECORD} and set(record) == {FIELD} else None
    except Exception as error:  # a site may send anything; whatever does not decode is malformed
        raise ReplyError(REPLY_MALFORMED) from error
    if not isinstance(value, bytes):
        raise ReplyError(REPLY_MALFORMED)
    if len(value) > max_bytes:
        raise ReplyError(REPLY_TOO_LARGE)
    return value
