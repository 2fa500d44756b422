"""A coordinator and a hospital of different versions: each says so by name, and nothing is trained, charged or sealed."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code

from fedward.privacy.errors import RefusalError
from fedward.study import messages, versions


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("versions"), sites=("cleveland", "hungarian", SITE))
    federation.register(heart_manifest())
    return federation


@pytest.mark.parametrize("protocol", [versions.PROTOCOL - 1, versions.PROTOCOL + 1])
def test_a_node_refuses_a_coordinator_of_another_version(template: Federation, tmp_path: Path, protocol: int) -> None:
    federation = template.copy(tmp_path / "copy")
    federation.propose(heart_manifest())
    site = Site(federation)
    site.decide("approved")
    assert code(site.work(protocol=protocol)) == "version-mismatch"
    assert site.charges() == []
    assert site.home.incidents_folder.exists() is False, "another version is no lie"


def test_a_coordinator_leaves_out_a_hospital_of_another_version_and_says_why(
    template: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hospital's reply names a newer protocol, as that wheel's `pack` would write it."""
    federation = template.copy(tmp_path / "copy")
    real = federation.transport.nodes[SITE]

    def newer(data: bytes) -> bytes:
        reply, body = messages.open_reply(real(data), federation.sites[SITE].identity().public)
        signer = federation.sites[SITE].identity()
        return messages.pack(reply.model_copy(update={"protocol": versions.PROTOCOL + 1}), body, signer)

    federation.transport.nodes[SITE] = newer
    with pytest.raises(RefusalError) as refused:
        federation.propose(heart_manifest(federation={"quorum": 3}))
    assert refused.value.code == "too-few-sites"
    [absent] = [row for row in federation.store.standings(federation.key) if row.site == SITE]
    assert absent.reason == "version-mismatch: the site speaks another version of Fedward's protocol"
