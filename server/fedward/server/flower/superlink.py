"""The SuperLink's application, the two servers over it, and the sockets that they listen on."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME

from fedward.privacy.errors import InputError, UnreachableError
from fedward.server.flower.gate import Gate
from fedward.server.flower.large import Asgi
from fedward.server.flower.layers import plain, unthreaded
from fedward.server.flower.listeners import Doorbell, FleetGuard, local_only
from fedward.server.flower.wire import LOOPBACK


def make_servers(
    port: int, secret: str, doorbell: Doorbell, gate: Gate, *, max_bytes: int, tls: tuple[Path, Path, Path]
) -> list[Any]:
    """The loopback server and the hospitals' server, over one SuperLink application."""
    uvicorn = importlib.import_module("uvicorn")
    superlink = _application(port)
    # Sites keep a connection for as long as they poll; a server that drops it in between costs a failed request.
    common = {"log_config": None, "access_log": False, "timeout_keep_alive": 75, "timeout_graceful_shutdown": 1}
    local = uvicorn.Config(local_only(superlink, secret, doorbell), **common)
    guard = FleetGuard(superlink, doorbell, max_bytes, gate)
    certificate, key, ca = tls
    fleet = uvicorn.Config(
        guard,
        lifespan="off",  # the loopback server owns the application's
        http=importlib.import_module("fedward.server.flower.peer").PeerProtocol,
        ws="none",
        proxy_headers=False,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_ca_certs=str(ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        server_header=False,
        **common,
    )
    try:
        fleet.load()
    except (OSError, ValueError) as error:
        raise InputError(
            "The coordinator's TLS files cannot be used",
            expected=f"PEM files {certificate}, its key {key} and {ca}",
            got=type(error).__name__,
            remedy="issue the coordinator's certificate again, or correct the paths",
        ) from error
    fleet.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    fleet.ssl.num_tickets = 0  # no resumption: every connection proves its certificate anew, dates included
    return [uvicorn.Server(local), uvicorn.Server(fleet)]


def _application(port: int) -> Asgi:
    """The whole SuperLink as an application; imported late, since the ServerApp's process has no use for it."""
    loader = importlib.import_module("flwr.superlink.config_loader")
    config = loader.SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=loader.load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",  # the service starts the ServerApp; Flower starts nothing
        runtime_dependency_install=False,
    )
    lifespan = importlib.import_module("flwr.superlink.cli.flower_superlink").SuperLinkLifespan
    application = importlib.import_module("flwr.superlink.main").create_app(config, lifespan)
    application.user_middleware = plain(application.user_middleware)
    unthreaded(application)
    served: Asgi = application
    return served


def listen(addresses: list[tuple[str, int]]) -> list[socket.socket]:
    """Listening sockets, all of them or none."""
    sockets: list[socket.socket] = []
    for host, port in addresses:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # The protocol is named because asyncio switches Nagle's algorithm off only then: 40 ms per request otherwise.
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sockets.append(opened)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((host, port))
            opened.listen(256)
        except OSError as error:
            close_all(sockets)
            raise _port_error(host, port, error) from error
    return sockets


def close_all(sockets: list[socket.socket]) -> None:
    """Close them; safe to repeat."""
    for opened in sockets:
        opened.close()


def _port_error(host: str, port: int, error: OSError) -> UnreachableError:
    what = f"Port {port} on {host} cannot be opened"
    if error.errno == errno.EADDRINUSE:
        remedy = f"stop the program that uses port {port} (ss -ltnp shows it), or choose another port"
        return UnreachableError(what, got="another program uses it", remedy=remedy, code="port-in-use")
    if error.errno == errno.EACCES:
        return UnreachableError(what, got="no permission", remedy="choose a port above 1023", code="port-refused")
    remedy = "choose an address of this machine"
    return UnreachableError(what, got=os.strerror(error.errno or 0), remedy=remedy, code="port-refused")
