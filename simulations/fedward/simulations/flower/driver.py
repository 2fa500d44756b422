"""Ray's driver and Flower's ServerApp, in a process of their own: `python -m fedward.simulations.flower.driver FD`.

FD is one end of a socket pair. In: "start", then "study" with its patients, then "work", each a message to a site. Out: "ready";
for each work "reply" or "lost"; "failed" when nothing more will come. The end of the socket ends this process, and Ray with it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import ray
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedward.simulations.flower.parcels import Header, receive, send
from fedward.simulations.flower.site_app import PARCEL, RECORD, WORKER, SiteApp, client_app

PAUSE_S = 0.005
TTL_S = 30 * 86400.0
"""A message must outlive any training; when to give up is the other side's decision."""

WORKER_NEEDS = {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": -1}
"""Of an actor. Flower 1.42 passes these to Ray as they are, and puts a dead actor back into its pool, where it would fail every
message at once: so Ray must start it anew, as often as it dies. How often a site is asked is bounded on the other side."""


def main() -> None:
    """Serve until the socket ends."""
    line = _Line(Connection(int(sys.argv[1])))
    try:
        setup, _ = line.receive()
        _start_ray(setup)
        line.send({"event": "ready", "workers": sum(int(node["Resources"].get("CPU", 0)) for node in ray.nodes())})
        server, site = ServerApp(), SiteApp()
        server.main()(_Relay(line, site).run)
        config = {"client_resources": dict(WORKER_NEEDS)}
        run_simulation(server, client_app(site), setup["nodes"], backend_config=config)
        line.leave("Flower's simulation ended")
    except EOFError:
        line.leave()
    except BaseException as error:  # noqa: BLE001 - told to the other side
        line.leave(_said(error))


def _start_ray(setup: dict[str, Any]) -> None:
    """A Ray of our own on loopback, or a connection to the one at an address."""
    if setup["address"] is None:
        ray.init(
            address="local",  # or it joins a cluster that happens to run here
            num_cpus=setup["workers"],
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=setup["folder"],
        )
        return
    path = os.environ.get("PYTHONPATH")  # as Flower does: a checkout that is not installed
    environment = {"env_vars": {"PYTHONPATH": path}} if path else None
    ray.init(address=setup["address"], log_to_driver=False, runtime_env=environment)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Line:
    """The socket, for several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """As `parcels.receive`."""
        return receive(self._connection)

    def send(self, header: Header, parcel: bytes = b"") -> None:
        """As `parcels.send`."""
        with self._lock:
            send(self._connection, header, parcel)

    def leave(self, reason: str = "") -> NoReturn:
        """Say why, end Ray, and this process without waiting for Flower's threads: they wait for work that may never end."""
        try:
            if reason:
                self.send({"event": "failed", "reason": reason[-2000:]})
        finally:
            try:
                ray.shutdown()
            finally:
                os._exit(0)


class _Relay:
    """Between the socket and Flower's Grid."""

    def __init__(self, line: _Line, site: SiteApp) -> None:
        self._line, self._site = line, site
        self._works: dict[str, int] = {}
        self._lock = threading.Lock()

    def run(self, grid: Grid, context: Context) -> None:  # noqa: ARG002 - Flower's signature
        """The ServerApp's main; it does not return."""
        threading.Thread(target=self._take, args=(grid,), daemon=True).start()
        try:
            while True:
                self._give(grid)
                time.sleep(PAUSE_S)
        except BaseException as error:  # noqa: BLE001 - as in main
            self._line.leave(_said(error))

    def _give(self, grid: Grid) -> None:
        """What has come from the sites."""
        with self._lock:
            waiting = set(self._works)
        for reply in grid.pull_messages(waiting) if waiting else ():
            with self._lock:
                work = self._works.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                self._line.send({"event": "lost", "work": work, "reason": reply.error.reason[:2000]})
            else:
                record = reply.content[RECORD]
                self._line.send({"event": "reply", "work": work, "worker": record[WORKER]}, record[PARCEL])

    def _take(self, grid: Grid) -> None:
        """What comes in; always read at once, so that neither side waits for the other to read."""
        try:
            nodes = self._nodes(grid)
            while True:
                header, parcel = self._line.receive()
                if header["do"] == "study":
                    tables = [ray.put(self._line.receive()[1]) for _ in range(header["sites"])]
                    self._site.study, self._site.shelf = header["study"], ray.put((parcel, tables))
                else:
                    content = RecordDict({RECORD: ConfigRecord({PARCEL: parcel})})
                    message = Message(content, nodes[header["place"] % len(nodes)], MessageType.TRAIN, ttl=TTL_S)
                    with self._lock:
                        (sent,) = grid.push_messages([message])
                        self._works[sent] = header["work"]
        except EOFError:
            self._line.leave()
        except BaseException as error:  # noqa: BLE001 - as in main
            self._line.leave(_said(error))

    def _nodes(self, grid: Grid) -> list[int]:
        """Flower registers its nodes while the ServerApp runs already."""
        while not (nodes := list(grid.get_node_ids())):
            time.sleep(PAUSE_S)
        return nodes


if __name__ == "__main__":
    main()
