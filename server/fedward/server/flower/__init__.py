"""The coordinator's door to Flower 1.42: the SuperLink, its two listeners, its runs and its messages.

The rest of the server sees bytes, node identifiers and run identifiers. Three things live here:

`SuperLinkService` (`service`) runs the SuperLink inside the coordinator's process, behind two listeners:

1. Hospitals reach `/v1/fleet/…` over TLS 1.3 with a client certificate of the federation's CA, and of that only the
   eight calls of `listeners`: no FAB, no registration, nothing else. A site speaks for itself only: a message whose
   sender is not the authenticated node is refused, which Flower does not check.
2. The loopback port serves the whole application. Flower's control API has no authentication in its open edition, so
   this door asks for a secret that never leaves the process: no other user of the machine can start or stop a run.
3. A poll that would bring nothing is held open until there is news (`listeners.Doorbell`): sites learn of a round at
   once, and an idle federation costs next to nothing.
4. The database is in memory: our store and journal are the record, and nodes are registered again at every start.

`serve_app` (`process`) is a process that has imported all that a ServerApp needs, and forks one for each run; the service
(`forkserver`) starts it itself, in the part that Flower calls SuperExec, so that a run is this interpreter, there in
milliseconds, without proxies, and dies with the coordinator: a ServerApp has its token over a socket, and ends when the
coordinator's end of another is gone, however the coordinator died.

`GridTransport` (`grid`) carries payloads between the ServerApp and the sites.

Import from here; the modules inside are this door's own.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: a hospital network gets no telemetry and no update check. A package's own
# code runs before any module in it, so no way into the door imports Flower sooner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.serverapp import ServerApp

from fedward.server.flower.grid import Arrival, GridTransport
from fedward.server.flower.process import parent_alive, quiet_flower, serve_app, server_app
from fedward.server.flower.replies import (
    MESSAGE_LOST,
    NODE_OFFLINE,
    NODE_UNKNOWN,
    REPLY_INCOMPLETE,
    REPLY_LOST,
    REPLY_MALFORMED,
    REPLY_TOO_LARGE,
    SITE_ERROR,
)
from fedward.server.flower.service import SuperLinkService

__all__ = [
    "MESSAGE_LOST",
    "NODE_OFFLINE",
    "NODE_UNKNOWN",
    "REPLY_INCOMPLETE",
    "REPLY_LOST",
    "REPLY_MALFORMED",
    "REPLY_TOO_LARGE",
    "SITE_ERROR",
    "Arrival",
    "GridTransport",
    "ServerApp",
    "SuperLinkService",
    "parent_alive",
    "quiet_flower",
    "serve_app",
    "server_app",
]
