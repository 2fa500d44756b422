"""Joining: a request or kit changed on the way is refused, by both its holders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from federation import NOW, Federation

from fedward.client.enrolment import accept_kit, check_certificate_dates, make_request
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError, IntegrityError, UsageError
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity, fingerprint
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.study.enrolment import JoinKit, JoinRequest, check_kit, check_request, sign


def today() -> datetime:
    """Now, when a test runs: the suite may take longer than a certificate is dated back."""
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("joined"), sites=("cleveland", "va"))


@pytest.fixture(scope="module")
def request_(joined: Federation) -> JoinRequest:
    return make_request(joined.sites["va"])


@pytest.fixture(scope="module")
def kit(joined: Federation) -> JoinKit:
    return joined.sites["va"].kit()


@pytest.fixture
def fresh(tmp_path: Path) -> SiteHome:
    """A site that has keys, and no kit yet."""
    return SiteHome.create(tmp_path / "new", "new", Budget(5.0, 1e-3))


def enroll(joined: Federation, request: JoinRequest) -> JoinKit:
    coordinator = LocalCoordinator(joined.home.path)
    try:
        return coordinator.enroll(request).kit
    finally:
        coordinator.close()


def test_an_honest_request_and_kit_hold(request_: JoinRequest, kit: JoinKit) -> None:
    check_request(request_)
    check_kit(kit)
    assert JoinRequest.model_validate_json(request_.model_dump_json()) == request_
    assert JoinKit.model_validate_json(kit.model_dump_json()) == kit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site", "cleveland"),
        ("identity_key", "01" * 32),
        ("node_key", "-----BEGIN PUBLIC KEY-----"),
        ("certificate_request", "-----BEGIN CERTIFICATE REQUEST-----"),
        ("signature", ""),
        ("signature", "AAAA"),
        ("signature", "no base64"),
    ],
)
def test_a_request_changed_on_the_way_is_refused_and_enrols_nobody(
    joined: Federation, request_: JoinRequest, field: str, value: str
) -> None:
    changed = request_.model_copy(update={field: value})
    before = joined.store.sites()
    with pytest.raises(IntegrityError):
        check_request(changed)
    with pytest.raises(IntegrityError):
        enroll(joined, changed)
    assert joined.store.sites() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation_id", "0" * 32),
        ("federation_name", "another"),
        ("site", "cleveland"),
        ("identity_key", "01" * 32),
        ("host", "evil.example"),
        ("port", 1),
        ("ca", "-----BEGIN CERTIFICATE-----"),
        ("certificate", "-----BEGIN CERTIFICATE-----"),
        ("coordinator_key", "01" * 32),
        ("signature", ""),
    ],
)
def test_a_kit_changed_on_the_way_is_refused_and_nothing_is_kept(
    joined: Federation, kit: JoinKit, field: str, value: object
) -> None:
    home = joined.sites["va"]
    before = home.kit_file.read_bytes(), home.ca_file.read_bytes(), home.certificate_file.read_bytes()
    with pytest.raises(IntegrityError):
        accept_kit(home, kit.model_copy(update={field: value}), None, today())
    assert (home.kit_file.read_bytes(), home.ca_file.read_bytes(), home.certificate_file.read_bytes()) == before


def test_a_kit_is_no_request(request_: JoinRequest, kit: JoinKit) -> None:
    """A signature for one purpose cannot be used for the other."""
    with pytest.raises(IntegrityError):
        check_kit(kit.model_copy(update={"signature": request_.signature}))


def test_a_stranger_s_request_for_a_known_name_is_refused(joined: Federation, fresh: SiteHome) -> None:
    stranger = make_request(fresh)
    stolen = sign(stranger.model_copy(update={"site": "va"}), fresh.identity())
    with pytest.raises(FedwardError, match="certificate request does not fit"):
        enroll(joined, stolen)
    assert joined.store.sites()[1].identity_key == joined.sites["va"].identity().public


def test_a_name_that_is_taken_stays_with_its_keys(joined: Federation, tmp_path: Path) -> None:
    other = SiteHome.create(tmp_path / "va", "va", Budget(5.0, 1e-3))
    with pytest.raises(UsageError, match="enrolled already"):
        enroll(joined, make_request(other))


def test_a_certificate_request_of_another_site_is_refused(
    joined: Federation, fresh: SiteHome, request_: JoinRequest
) -> None:
    mixed = make_request(fresh).model_copy(update={"certificate_request": request_.certificate_request})
    with pytest.raises(IntegrityError, match="does not fit the site"):
        enroll(joined, sign(mixed, fresh.identity()))


@pytest.mark.parametrize(
    "text", ["-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "x" * 40]
)
def test_a_certificate_request_that_is_none_is_refused(joined: Federation, fresh: SiteHome, text: str) -> None:
    broken = make_request(fresh).model_copy(update={"certificate_request": text})
    with pytest.raises(IntegrityError, match="damaged"):
        enroll(joined, sign(broken, fresh.identity()))


def test_enrolling_again_gives_a_kit_that_the_site_takes(joined: Federation, request_: JoinRequest) -> None:
    home = joined.sites["va"]
    accept_kit(home, enroll(joined, request_), fingerprint(joined.home.identity().public).upper(), today())
    assert home.kit().site == "va"
    assert check_certificate_dates(home, today()) in {396, 397}  # whole days that are left of 397


def test_a_kit_of_another_coordinator_than_expected_is_refused(joined: Federation, kit: JoinKit) -> None:
    with pytest.raises(IntegrityError, match="another coordinator"):
        accept_kit(joined.sites["va"], kit, fingerprint("01" * 32), today())


def test_a_kit_signed_anew_by_a_stranger_is_refused_by_a_site_that_has_joined(joined: Federation, kit: JoinKit) -> None:
    stranger = Identity.generate()
    forged = sign(kit.model_copy(update={"coordinator_key": stranger.public, "host": "evil.example"}), stranger)
    check_kit(forged)  # it is whole; but of whom?
    with pytest.raises(IntegrityError, match="another federation"):
        accept_kit(joined.sites["va"], forged, None, today())


def test_a_kit_of_another_site_is_refused(joined: Federation, kit: JoinKit) -> None:
    with pytest.raises(IntegrityError, match="another site"):
        accept_kit(joined.sites["cleveland"], kit, None, today())


def test_a_kit_with_a_certificate_by_another_ca_is_refused(joined: Federation, kit: JoinKit, tmp_path: Path) -> None:
    other = CoordinatorHome.create(
        tmp_path / "other", name="other", host="localhost", bind="127.0.0.1", port=1, control_port=2, now=NOW
    )
    forged = sign(kit.model_copy(update={"ca": other.authority().pem().decode()}), joined.home.identity())
    with pytest.raises(IntegrityError, match="not by the kit's CA"):
        accept_kit(joined.sites["va"], forged, None, today())


def test_a_kit_with_another_site_s_certificate_is_refused(joined: Federation, kit: JoinKit) -> None:
    wrong = kit.model_copy(update={"certificate": joined.sites["cleveland"].kit().certificate})
    with pytest.raises(IntegrityError, match="another key"):
        accept_kit(joined.sites["va"], sign(wrong, joined.home.identity()), None, today())


@pytest.mark.parametrize("days", [-1, 400])
def test_a_certificate_outside_its_time_is_refused(joined: Federation, kit: JoinKit, days: int) -> None:
    home, then = joined.sites["va"], today() + timedelta(days=days)
    with pytest.raises(IntegrityError) as caught:
        accept_kit(home, kit, None, then)
    assert caught.value.code == "certificate-expired"
    with pytest.raises(IntegrityError) as caught:
        check_certificate_dates(home, then)
    assert caught.value.code == "certificate-expired"


def test_no_private_key_is_in_what_leaves(joined: Federation, request_: JoinRequest, kit: JoinKit) -> None:
    secrets = [path.read_bytes() for home in joined.sites.values() for path in home.path.glob("keys/*")]
    secrets += [path.read_bytes() for path in joined.home.path.glob("keys/*")]
    left = (request_.model_dump_json() + kit.model_dump_json()).encode()
    assert len(secrets) == 2 * 6 + 3
    for secret in secrets:
        core = b"".join(secret.splitlines()[1:-1]) or secret
        assert core not in left.replace(b"\\n", b"")
    assert b"PRIVATE" not in left
