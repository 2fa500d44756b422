"""The hospital's door to Flower: one warm process that answers the coordinator over mTLS.

The rest of the node sees bytes: a `Handler` takes one request payload and returns one reply payload. All knowledge of
Flower's Fleet API (flwr 1.42) is here: the loop in `loop`, one activation of the node in `session`.

Rules of the loop:

1. Nothing shipped by the coordinator ever executes: the loop never asks for a FAB, follows no redirect, and refuses a
   message that is not exactly one `bytes` value under `fedward`/`payload`.
2. The loop outlives every failure of the network or the SuperLink, heartbeats included, until `stop` is set. What
   happened is told to `report(code, text)`; the codes are the constants below.
3. A failure that can pass (time-out, reset, 5xx) keeps the node's identity: Flower refuses to activate a node that it
   still counts as online. Only an answer that says "unknown node" (401) makes the loop activate anew, which is what a
   restarted SuperLink with an empty database says.
4. Heartbeats run in their own thread: a handler that trains for an hour never takes the site offline.
5. `stop` deactivates the node, so that a restart is welcome at once. After a crash the next node of the same home ends the
   session that was left and says that the message under way is not answered any more (`remembered`). Where that cannot be
   known, as in a copy of the home, the SuperLink refuses the node until its last heartbeat lapses, `HEARTBEAT_PATIENCE` (2)
   times `session.HEARTBEAT_S` later; the loop waits patiently.
6. An exception that escapes the handler is reported by its type alone, and the coordinator learns "handler-failed".

Import from here; the modules inside are this door's own.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: a hospital's node sends no telemetry and looks for no update.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from fedward.client.flower.credentials import FleetAddress
from fedward.client.flower.diagnosis import (
    ACTIVATION_REFUSED,
    CERTIFICATE_REFUSED,
    CLOCK_SKEW,
    CONNECTED,
    CREDENTIALS_UNREADABLE,
    DISCONNECTED,
    HANDLED,
    HANDLER_FAILED,
    KEY_REFUSED,
    NODE_FAULT,
    PROXY_FAILED,
    PROXY_LOGIN,
    PROXY_REFUSED,
    PROXY_UNREACHABLE,
    REPLY_LOST,
    REQUEST_LOST,
    REQUEST_MALFORMED,
    RETRYING,
    SERVER_EXPIRED,
    SERVER_UNTRUSTED,
    TLS_INTERCEPTED,
    TLS_TOO_OLD,
    Report,
)
from fedward.client.flower.loop import FleetLoop, Handler, KeySource
from fedward.client.flower.proxy import PROXY_INVALID, parse_proxy

__all__ = [
    "ACTIVATION_REFUSED",
    "CERTIFICATE_REFUSED",
    "CLOCK_SKEW",
    "CONNECTED",
    "CREDENTIALS_UNREADABLE",
    "DISCONNECTED",
    "HANDLED",
    "HANDLER_FAILED",
    "KEY_REFUSED",
    "NODE_FAULT",
    "PROXY_FAILED",
    "PROXY_INVALID",
    "PROXY_LOGIN",
    "PROXY_REFUSED",
    "PROXY_UNREACHABLE",
    "REPLY_LOST",
    "REQUEST_LOST",
    "REQUEST_MALFORMED",
    "RETRYING",
    "SERVER_EXPIRED",
    "SERVER_UNTRUSTED",
    "TLS_INTERCEPTED",
    "TLS_TOO_OLD",
    "FleetAddress",
    "FleetLoop",
    "Handler",
    "KeySource",
    "Report",
    "parse_proxy",
]
