"""The transport over Flower: sites by name on one side, node numbers and messages on the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedward.server.flower import GridTransport
from fedward.server.store import Store
from fedward.server.transport import Delivery


class SiteTransport:
    """The coordinator's `Transport`, within a run. A newer request to a site replaces the one that it still owes."""

    def __init__(self, grid: Any, store: Store) -> None:
        self._grid = GridTransport(grid)
        self._store = store
        self._nodes: dict[str, int] = {}
        self._owed: dict[str, str] = {}

    def online(self) -> frozenset[str]:
        """
        Raises:
            UnreachableError: the SuperLink is gone.
        """
        nodes = self._grid.online()
        self._look_up()
        return frozenset(site for site, node in self._nodes.items() if node in nodes)

    def send(self, requests: Mapping[str, bytes]) -> None:
        """
        Raises:
            UnreachableError: the SuperLink is gone.
        """
        self._look_up()
        by_node = {self._nodes[site]: site for site in requests if site in self._nodes}
        sent = self._grid.send_all({node: requests[site] for node, site in by_node.items()})
        self._owed = {message: site for message, site in self._owed.items() if site not in requests}
        self._owed.update({message: by_node[node] for message, node in sent.items()})

    def _look_up(self) -> None:
        """Where each site is now: keys rotate and sites are revoked while a run goes on."""
        self._nodes = {
            row.site: row.node_id for row in self._store.sites() if row.node_id is not None and not row.revoked
        }

    def poll(self) -> list[Delivery]:
        """
        Raises:
            UnreachableError: the SuperLink is gone.
        """
        found = []
        for arrival in self._grid.poll(list(self._owed)):
            site = self._owed.pop(arrival.message_id)
            found.append(Delivery(site, arrival.payload, arrival.failure or ""))
        return found
