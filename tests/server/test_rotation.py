"""Key rotation, renewal and revocation with a running node and the coordinator's real service, none of them restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import fedward, good
from joining import Caller, Running, Served, headers_of, public_key, refused, served
from loopback import wait_for

from fedward.client import rotation
from fedward.client.flower import CONNECTED, DISCONNECTED

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("rotated"), ("a", "b", "c")) as made:
        yield made


@pytest.fixture
def node(there: Served) -> Iterator[Running]:
    made = Running(there.sites["a"])
    made.wait(CONNECTED)
    yield made
    made.end()


def rotated(there: Served, site: str, *options: str) -> dict[str, Any]:
    """Rotate a site's keys by the commands, up to the kit."""
    home = there.sites[site].path
    asked = good("site", "rotate", *options, "--home", home)
    return good("coordinator", "enroll", asked["request"], "--home", there.home.path)


def state_of(there: Served, site: str) -> str:
    return next(row.state for row in there.coordinator.sites() if row.site == site)


def old_caller(there: Served, site: str, folder: Path) -> tuple[Caller, dict[str, str]]:
    """A copy of the keys of now, and a header signed with them."""
    home = there.sites[site]
    copies = folder / "old.pem", folder / "old-key.pem"
    for copy, source in zip(copies, (home.certificate_file, home.key("tls.pem")), strict=True):
        copy.write_bytes(source.read_bytes())
    return Caller(there, (*copies, home.key_password)), headers_of(home)


@pytest.mark.parametrize("options", [(), ("--identity",)], ids=["node-and-tls", "identity"])
def test_a_running_node_takes_up_its_new_keys_and_the_old_are_refused(
    there: Served, node: Running, tmp_path: Path, options: tuple[str, ...]
) -> None:
    home = there.sites["a"]
    before, identity = public_key(home), home.identity().public
    thief, headers = old_caller(there, "a", tmp_path)
    done = rotated(there, "a", *options)
    assert done["what"] == ("identity-rotated" if options else "rotated")
    assert state_of(there, "a") == "rotating"
    assert public_key(home) == before, "nothing changes before the kit is enrolled"
    since = len(node.told)
    ran = good("site", "enroll", done["kit"], "--home", home.path)
    assert ran["what"] == done["what"]

    assert "fresh certificate" in node.wait(DISCONNECTED, since)
    node.wait(CONNECTED, since)
    wait_for("the coordinator notes it", lambda: state_of(there, "a") == "enrolled")
    assert public_key(home) != before
    assert (home.identity().public != identity) is bool(options)
    row = next(row for row in there.coordinator._store.sites() if row.site == "a")
    assert row.identity_key == home.identity().public == node.node._identity.public
    assert row.node_key.encode() == public_key(home)
    assert not (home.path / rotation.NEW).exists()
    wait_for("old keys go", lambda: not (home.path / rotation.PREVIOUS).exists())
    with thief:
        assert refused(thief.activate(headers, before)) == (403, "certificate-replaced")
    assert fedward("site", "rotate", "--back", "--home", home.path).code == 2


def test_the_old_keys_work_until_the_new_connect_and_again_after_going_back(there: Served, tmp_path: Path) -> None:
    home = there.sites["b"]
    before = public_key(home)
    done = rotated(there, "b")
    good("site", "enroll", done["kit"], "--home", home.path)
    assert public_key(home) != before
    good("site", "rotate", "--back", "--home", home.path)
    assert public_key(home) == before
    old = Running(home)
    old.wait(CONNECTED)
    old.end()
    assert state_of(there, "b") == "rotating"
    assert not (home.path / rotation.PREVIOUS).exists()


def test_a_renewed_certificate_is_taken_up_with_the_same_keys(there: Served, node: Running) -> None:
    home = there.sites["a"]
    before, certificate = public_key(home), home.certificate_file.read_bytes()
    asked = good("site", "request", "--home", home.path)["request"]
    done = good("coordinator", "enroll", asked, "--home", there.home.path)
    assert done["what"] == "renewed"
    since = len(node.told)
    assert good("site", "enroll", done["kit"], "--home", home.path)["what"] == "renewed"
    node.wait(CONNECTED, since)
    wait_for("the coordinator notes it", lambda: state_of(there, "a") == "enrolled")
    assert public_key(home) == before
    assert home.certificate_file.read_bytes() != certificate


def test_a_revoked_node_says_so_and_joins_anew_only_with_new_keys_and_a_fingerprint(there: Served) -> None:
    home = there.sites["c"]
    node = Running(home)
    node.wait(CONNECTED)
    number = next(row.node_id for row in there.coordinator._store.sites() if row.site == "c")
    began = time.monotonic()
    good("coordinator", "revoke", "c", "--reason", "left the project", "--home", there.home.path)
    assert "telephone" in node.wait("revoked")
    took = time.monotonic() - began
    assert took < 5, took
    node.end()
    listed = {row["site"]: row for row in good("coordinator", "sites", "--home", there.home.path)["sites"]}
    assert (listed["c"]["state"], listed["c"]["reason"]) == ("revoked", "left the project")
    assert "revoked" in fedward("coordinator", "sites", "--home", there.home.path).out
    again = fedward("coordinator", "revoke", "c", "--yes", "--home", there.home.path)
    assert again.code == 3

    plain = good("site", "request", "--home", home.path)["request"]
    told = fedward("coordinator", "enroll", plain, "--home", there.home.path)
    assert (told.code, "telephone" in told.err) == (4, True)
    asked = good("site", "rotate", "--identity", "--home", home.path)
    done = good("coordinator", "enroll", asked["request"], "--fingerprint", asked["fingerprint"],
                "--home", there.home.path)  # fmt: skip
    assert done["what"] == "rejoined"
    good("site", "enroll", done["kit"], "--home", home.path)
    node = Running(home)
    node.wait(CONNECTED)
    node.end()
    assert state_of(there, "c") == "enrolled"
    row = next(row for row in there.coordinator._store.sites() if row.site == "c")
    assert row.node_id not in {None, number}
