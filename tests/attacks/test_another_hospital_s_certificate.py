"""Whoever reaches the hospitals' port: without the right certificate, key and state, nothing gets past it.

Real SuperLink, real TLS, the coordinator's real service and store.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from joining import Served, headers_of, public_key, refused, served
from loopback import wait_for

from fedward.client.enrolment import make_request
from fedward.privacy.errors import RefusalError
from fedward.server import authority
from fedward.server.authority import Authority
from fedward.server.flower.gate import Gate
from fedward.server.flower.listeners import FLEET_CALLS
from fedward.server.records import CredentialRow

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("attacked"), ("a", "b", "revoked")) as made:
        yield made


def node_id(there: Served, site: str) -> int:
    found = next(row.node_id for row in there.coordinator._store.sites() if row.site == site)
    assert found is not None
    return found


def test_an_honest_site_is_let_in(there: Served) -> None:
    """So that the refusals below say something."""
    home = there.sites["a"]
    with there.caller("a") as caller:
        assert caller.activate(headers_of(home), public_key(home)).status_code == 200
        node = Node(node_id=node_id(there, "a"))
        assert (
            caller.post("/v1/fleet/pull-messages", PullMessagesRequest(node=node), headers_of(home)).status_code == 200
        )
        leave = DeactivateNodeRequest(node_id=node.node_id)
        assert caller.post("/v1/fleet/deactivate-node", leave, headers_of(home)).status_code == 200


@pytest.mark.parametrize("path", sorted(FLEET_CALLS))
def test_a_s_certificate_carries_no_request_of_b(there: Served, path: str) -> None:
    with there.caller("a") as caller:
        answer = caller.post(path, b"", headers_of(there.sites["b"]))
    assert refused(answer) == (403, "foreign-key")


def test_a_stolen_header_is_useless_without_the_client_key(there: Served) -> None:
    stolen, victim = headers_of(there.sites["b"]), public_key(there.sites["b"])
    with there.caller("a") as insider:
        assert refused(insider.activate(stolen, victim)) == (403, "foreign-key")
    with there.caller(None) as outsider, pytest.raises(httpx.TransportError):
        outsider.activate(stolen, victim)
    with there.caller("b") as owner:  # over the connection that it belongs to it works
        assert owner.activate(stolen, victim).status_code == 200


def test_a_replayed_header_works_over_no_other_connection_and_not_for_ever(there: Served) -> None:
    """Flower takes a header again within 305 s; the certificate keeps it with its owner even then."""
    home = there.sites["a"]
    old = headers_of(home, shift_s=-306)
    with there.caller("a") as caller:
        assert caller.activate(old, public_key(home)).status_code == 401
    with there.caller("b") as thief:
        assert refused(thief.activate(headers_of(home, shift_s=-300), public_key(home))) == (403, "foreign-key")


def test_two_node_keys_in_one_request_are_none(there: Served) -> None:
    home = there.sites["a"]
    key = headers_of(home)["flwr-public-key"]
    pairs = [*headers_of(home).items(), ("flwr-public-key", key)]
    with there.caller("a") as caller:
        answer = caller.wire.post(f"{caller.address}/v1/fleet/activate-node", content=b"", headers=pairs)
    assert refused(answer) == (403, "foreign-key")


def test_no_call_may_name_another_site_s_node(there: Served) -> None:
    """Own certificate, own header, another's number in the body: every call that carries one."""
    a, other = there.sites["a"], node_id(there, "b")
    node = Node(node_id=other)
    bodies = {
        "deactivate-node": DeactivateNodeRequest(node_id=other),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=30),
        "pull-messages": PullMessagesRequest(node=node),
        "confirm-message-received": ConfirmMessageReceivedRequest(node=node, run_id=1, message_object_id="x"),
        "pull-object": PullObjectRequest(node=node, run_id=1, object_id="x"),
        "push-object": PushObjectRequest(node=node, run_id=1, object_id="x", object_content=b"x"),
    }
    with there.caller("a") as caller:
        for call, body in bodies.items():
            assert caller.post(f"/v1/fleet/{call}", body, headers_of(a)).status_code == 401, call
        assert refused(caller.activate(headers_of(a), public_key(there.sites["b"]))) == (403, "foreign-key")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/control/start-run", "/v1/control/register-node", "/v1/control/unregister-node", "/v1/control/stop-run"),
        *("/v1/runtime/acquire-task", "/v1/runtime/push-messages", "/v1/fleet/register-node", "/v1/fleet/get-fab"),
        *("/v1/fleet/unregister-node", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run"),
        *("/docs", "/redoc", "/openapi.json", "/health", "/healthz", "/metrics", "/fedward/news", "/"),
    ],
)
def test_control_docs_runtime_and_health_are_not_on_the_hospitals_port(there: Served, path: str) -> None:
    with there.caller("a") as caller:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            request = caller.wire.build_request(
                method, caller.address, headers=headers_of(there.sites["a"]), content=b""
            )
            request.url = request.url.copy_with(raw_path=path.encode())
            assert caller.wire.send(request).status_code == 404, method


def hangs_up(there: Served, context: ssl.SSLContext) -> bool:
    """Whether the port ends a connection of this context before any answer."""
    try:
        with (
            socket.create_connection(("127.0.0.1", there.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            return secured.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_tls_1_2_is_refused(there: Served) -> None:
    with there.caller("a") as caller:
        assert not hangs_up(there, caller.context)
        caller.context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert hangs_up(there, caller.context)


def test_no_client_certificate_is_refused(there: Served) -> None:
    with there.caller(None) as caller:
        assert hangs_up(there, caller.context)


def issued(folder: Path, by: Authority, there: Served, now: datetime, site: str = "a") -> ssl.SSLContext:
    """A context with a certificate for the site's own key, by this authority, at this time."""
    certificate = folder / "certificate.pem"
    certificate.write_bytes(by.issue_site(make_request(there.sites[site]), now))
    context = ssl.create_default_context(cafile=str(there.home.ca_file))
    context.load_cert_chain(certificate, there.sites[site].key("tls.pem"), there.sites[site].key_password)
    return context


def test_a_certificate_by_another_ca_is_refused(there: Served, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert hangs_up(there, issued(tmp_path, Authority.create("test", now), there, now))
    assert not hangs_up(there, issued(tmp_path, there.home.authority(), there, now))


@pytest.mark.parametrize("days", [-authority.LEAF_DAYS - 1, 2])
def test_a_certificate_out_of_its_dates_is_refused(there: Served, tmp_path: Path, days: int) -> None:
    then = datetime.now(UTC) + timedelta(days=days)
    assert hangs_up(there, issued(tmp_path, there.home.authority(), there, then))


def test_a_certificate_of_the_ca_that_the_coordinator_does_not_know_is_refused(there: Served, tmp_path: Path) -> None:
    """The CA's key alone, say of a backup, makes nobody a member."""
    context = issued(tmp_path, there.home.authority(), there, datetime.now(UTC))
    home = there.sites["a"]
    with httpx.Client(verify=context, trust_env=False) as wire:
        url = f"https://localhost:{there.port}/v1/fleet/activate-node"
        assert refused(wire.post(url, content=b"", headers=headers_of(home))) == (403, "certificate-unknown")


def test_the_coordinator_s_own_certificate_is_no_site_s(there: Served) -> None:
    context = ssl.create_default_context(cafile=str(there.home.ca_file))
    context.load_cert_chain(there.home.certificate_file, there.home.key("server.pem"))
    assert hangs_up(there, context)


def test_a_revoked_certificate_is_refused_on_a_connection_that_is_open(there: Served) -> None:
    home = there.sites["revoked"]
    with there.caller("revoked") as caller:
        assert caller.activate(headers_of(home), public_key(home)).status_code == 200
        node = Node(node_id=node_id(there, "revoked"))
        poll = PullMessagesRequest(node=node)
        assert caller.post("/v1/fleet/pull-messages", poll, headers_of(home)).status_code == 200
        there.coordinator.revoke("revoked", "stolen laptop")
        assert refused(caller.post("/v1/fleet/pull-messages", poll, headers_of(home))) == (403, "revoked")
        assert refused(caller.activate(headers_of(home), public_key(home))) == (403, "revoked")
    with there.caller("revoked") as again:
        assert refused(again.activate(headers_of(home), public_key(home))) == (403, "revoked")
    kinds = lambda: [(entry.kind, entry.fields.get("code")) for entry in there.home.audit.entries()]  # noqa: E731
    wait_for("the refusal is logged", lambda: ("login-refused", "revoked") in kinds())
    assert kinds().count(("login-refused", "revoked")) == 1, "one that goes on is entered once"
    assert {"login", "key-revoked"} <= {kind for kind, _ in kinds()}
    with pytest.raises(RefusalError) as caught:
        there.coordinator.enroll(make_request(home))
    assert caught.value.code == "revoked"
    with pytest.raises(RefusalError) as caught:
        there.coordinator.enroll(make_request(home), confirmed=True)
    assert caught.value.code == "key-retired"


# --- the gate by itself: what a connection cannot show in a short test ----------------------------------------------


class Table:
    def __init__(self, row: CredentialRow | None, error: Exception | None = None) -> None:
        self.row, self.error = row, error

    def find(self, fingerprint: str) -> CredentialRow | None:
        if self.error:
            raise self.error
        return self.row if self.row and fingerprint == self.row.fingerprint else None

    def connected(self, fingerprint: str) -> None:
        raise AssertionError(fingerprint)

    def refused(self, fingerprint: str, code: str) -> None:
        raise AssertionError(code)


def scope(there: Served, site: str = "a") -> dict[str, object]:
    certificate = x509.load_pem_x509_certificate(there.sites[site].certificate_file.read_bytes())
    der = certificate.public_bytes(serialization.Encoding.DER)
    headers = [(name.encode(), value.encode()) for name, value in headers_of(there.sites[site]).items()]
    return {"headers": headers, "extensions": {"tls": {"fedward.fingerprint": hashlib.sha256(der).hexdigest()}}}


def row_of(there: Served, site: str = "a") -> CredentialRow:
    return there.coordinator._store.credentials(site)[-1]


def test_the_gate_lets_in_by_the_whole_of_the_credential_only(there: Served) -> None:
    row, asked = row_of(there), scope(there)
    assert Gate(Table(row), lambda _key: 1).refuses(asked) == ""
    assert Gate(Table(replace(row, expires_at=1)), lambda _key: 1).refuses(asked) == "certificate-expired"
    assert Gate(Table(replace(row, state="replaced")), lambda _key: 1).refuses(asked) == "certificate-replaced"
    assert Gate(Table(None), lambda _key: 1).refuses(asked) == "certificate-unknown"
    assert Gate(Table(row, OSError("disk")), lambda _key: 1).refuses(asked) == "try-again"
    for bare in ({"extensions": None}, {"extensions": {}}, {"extensions": {"tls": {}}}):
        assert Gate(Table(row), lambda _key: 1).refuses(asked | bare) == "certificate-unknown"
