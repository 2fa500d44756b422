"""A coordinator's real service on loopback with enrolled sites, and the raw requests of whoever tries their port."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from loopback import free_ports, wait_for

from fedward.client.enrolment import accept_kit, make_request
from fedward.client.flower import FleetLoop
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.client.running import SiteKeys
from fedward.privacy.draws import SecureDraws
from fedward.privacy.ledger import Budget
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.service import CoordinatorService

HEARTBEAT_S = 30.0


class Served:
    """A coordinator's service in a thread."""

    def __init__(self, folder: Path, sites: tuple[str, ...] = ("a", "b")) -> None:
        self.folder = folder
        self.port, control = free_ports(2)
        self.home = CoordinatorHome.create(
            folder / "coordinator", name="test", host="localhost", bind="127.0.0.1", port=self.port,
            control_port=control, now=datetime.datetime.now(UTC),
        )  # fmt: skip
        self.coordinator = LocalCoordinator(self.home.path)
        self.sites = {site: self.join(site) for site in sites}
        self.said: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=CoordinatorService(self.home, self._stop, self.said.append).run, daemon=True
        )
        self._thread.start()
        for site in sites:
            wait_for(f"{site} may connect", lambda site=site: f'site "{site}" may connect' in self.said)

    def join(self, site: str) -> SiteHome:
        home = SiteHome.create(self.folder / site, site, Budget(10.0, 1e-3))
        accept_kit(home, self.coordinator.enroll(make_request(home)).kit, None, datetime.datetime.now(UTC))
        return home

    def end(self) -> None:
        self._stop.set()
        self._thread.join(20)
        self.coordinator.close()

    def caller(self, certificate_of: str | None) -> Caller:
        """Who connects with a site's certificate and its key, or with none."""
        home = self.sites[certificate_of] if certificate_of else None
        return Caller(self, (home.certificate_file, home.key("tls.pem"), home.key_password) if home else None)


class Caller:
    """One kept-alive TLS connection to the hospitals' port."""

    def __init__(self, served: Served, certificate: tuple[Path, Path, bytes] | None) -> None:
        context = ssl.create_default_context(cafile=str(served.home.ca_file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        self.context = context
        self.wire = httpx.Client(verify=context, trust_env=False)
        self.address = f"https://localhost:{served.port}"

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def post(self, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        content = body if isinstance(body, bytes) else body.SerializeToString()
        return self.wire.post(self.address + path, content=content, headers=headers)

    def activate(self, headers: dict[str, str], public_key: bytes) -> httpx.Response:
        request = ActivateNodeRequest(public_key=public_key, heartbeat_interval=HEARTBEAT_S)
        return self.post("/v1/fleet/activate-node", request, headers)


def node_key(home: SiteHome) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(home.key("node.pem").read_bytes(), home.key_password)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def public_key(home: SiteHome) -> bytes:
    return bytes(public_key_to_bytes(node_key(home).public_key()))


def headers_of(home: SiteHome, *, shift_s: float = 0.0) -> dict[str, str]:
    """What a site's node sends with every request, signed at this time, or at another."""
    stamp = (datetime.datetime.now(UTC) + datetime.timedelta(seconds=shift_s)).isoformat()
    signature = sign_message(node_key(home), stamp.encode("ascii"))
    return {
        "flwr-public-key": b64encode(public_key(home)).decode(),
        TIMESTAMP_HEADER: stamp,
        "flwr-signature": b64encode(signature).decode(),
        "content-type": "application/protobuf",
    }


def refused(answer: httpx.Response) -> tuple[int, str | None]:
    """The status, and the name of the refusal."""
    return answer.status_code, answer.headers.get("fedward-refusal")


@contextlib.contextmanager
def served(folder: Path, sites: tuple[str, ...] = ("a", "b")) -> Iterator[Served]:
    """A service with these sites, ended at the end."""
    made = Served(folder, sites)
    try:
        yield made
    finally:
        made.end()


@dataclass
class Running:
    """A site's node in a thread, as `run_node` builds it."""

    home: SiteHome
    told: list[tuple[str, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        node = SiteNode(
            self.home, SiteLog(self.home.log_file, seal=self.home.sealer(self.home.log_file)), SecureDraws()
        )
        self.node, keys = node, SiteKeys(self.home, node)
        loop = FleetLoop(keys.current(), node, report=lambda *said: self.told.append(said), stop=self.stop, keys=keys)
        self.thread = threading.Thread(target=loop.run, daemon=True)
        self.thread.start()

    def wait(self, code: str, since: int = 0) -> str:
        """The text with which the node says this code, after so many other reports."""
        found = lambda: next((text for said, text in self.told[since:] if said == code), None)  # noqa: E731
        return str(wait_for(code, found, 30, lambda: repr(self.told)))

    def end(self) -> None:
        self.stop.set()
        self.thread.join(10)
