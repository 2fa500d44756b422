"""The switch to new keys: whole after a crash at any step, and only for a kit and a request that are right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fedward.client import rotation
from fedward.client.decisions import load
from fedward.client.enrolment import accept_kit, check_chain, make_request, make_rotation
from fedward.client.home import SiteHome
from fedward.client.registry import add_approver
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.study.enrolment import JoinKit, RotationRequest, read_request, sign


class Power(BaseException):
    """The machine goes off."""


@pytest.fixture
def coordinator(tmp_path: Path) -> LocalCoordinator:
    CoordinatorHome.create(
        tmp_path / "coordinator", name="t", host="localhost", bind="127.0.0.1", port=1, control_port=2, now=now()
    )
    return LocalCoordinator(tmp_path / "coordinator")


@pytest.fixture
def home(tmp_path: Path, coordinator: LocalCoordinator) -> SiteHome:
    return joined(tmp_path / "a", coordinator)


def joined(path: Path, coordinator: LocalCoordinator) -> SiteHome:
    home = SiteHome.create(path, path.name, Budget(10.0, 1e-3))
    accept_kit(home, coordinator.enroll(make_request(home)).kit, None, now())
    return home


def now() -> datetime:
    return datetime.now(UTC)


def state(home: SiteHome) -> tuple[str, str, bytes]:
    """Identity, node key and certificate, which belong together."""
    check_chain(home)
    kit, certificate = home.kit(), home.certificate_file.read_bytes()
    assert kit.certificate.encode() == certificate
    assert kit.identity_key == home.identity().public
    return home.identity().public, make_request(home).node_key, certificate


def test_a_crash_at_any_step_of_the_switch_leaves_all_old_or_all_new(
    home: SiteHome, coordinator: LocalCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kit = coordinator.enroll(make_rotation(home, identity=True), end_studies=True).kit
    old, seen, step = state(home), set(), 0
    while True:
        step += 1
        twin = tmp_path / f"crash-{step}" / "a"
        shutil.copytree(home.path, twin)
        with monkeypatch.context() as patch:
            crashes_after(patch, step)
            try:
                accept_kit(SiteHome.open(twin), kit, None, now())
                ended = True
            except Power:
                ended = False
        again = SiteHome.open(twin)
        found = state(again)
        seen.add(found == old)
        if found == old:
            accept_kit(again, kit, None, now())
            found = state(again)
        assert found[0] == kit.identity_key
        assert found[2] == kit.certificate.encode()
        assert not (twin / rotation.NEW).exists()
        assert (twin / rotation.PREVIOUS / "kit.json").is_file()
        rotation.go_back(again)
        assert state(again) == old
        if ended:
            break
    assert seen == {True, False}
    assert step > 8, "every write was to be a step"


def crashes_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """The power fails before the write, rename or removal of this number."""
    left = [steps]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Power
            return real(*args, **kwargs)

        return call

    for name in ("write_secret", "write_atomic", "sync_folder"):
        patch.setattr(rotation, name, counted(getattr(rotation, name)))
    patch.setattr(rotation.shutil, "rmtree", counted(shutil.rmtree))


def test_asked_again_a_rotation_holds_the_same_keys_and_cancelled_it_leaves_none(home: SiteHome) -> None:
    first, second = make_rotation(home, identity=False), make_rotation(home, identity=False)
    assert first.request.node_key == second.request.node_key != make_request(home).node_key
    rotation.cancel(home)
    assert rotation.staged(home) is None
    assert not (home.path / rotation.NEW).exists()


def test_new_keys_are_encrypted_and_for_their_owner_only(home: SiteHome) -> None:
    make_rotation(home, identity=True)
    files = sorted((home.path / rotation.NEW).iterdir())
    assert [file.name for file in files] == ["identity.pem", "node.pem", "tls.pem"]
    for file in files:
        assert file.stat().st_mode & 0o777 == 0o600
        with pytest.raises(TypeError):
            serialization.load_pem_private_key(file.read_bytes(), None)


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(FedwardError) as caught:
        action()
    return caught.value.code


def test_a_rotation_that_a_stranger_signed_is_refused(home: SiteHome, coordinator: LocalCoordinator) -> None:
    made, stranger = make_rotation(home, identity=False), Identity.generate()
    forged = sign(made.model_copy(update={"identity_key": stranger.public}), stranger)
    assert code_of(lambda: coordinator.enroll(forged)) == "foreign-rotation"
    assert (
        code_of(lambda: coordinator.enroll(made.model_copy(update={"identity_key": stranger.public})))
        == "bad-signature"
    )


def test_another_site_cannot_rotate_this_one_s_keys(
    home: SiteHome, coordinator: LocalCoordinator, tmp_path: Path
) -> None:
    other = joined(tmp_path / "b", coordinator)
    theirs = make_rotation(other, identity=False)
    assert code_of(lambda: coordinator.enroll(theirs.model_copy(update={"site": "a"}))) == "bad-signature"
    own = sign(
        RotationRequest(site="a", identity_key=other.identity().public, request=theirs.request), other.identity()
    )
    assert code_of(lambda: coordinator.enroll(own)) == "integrity"
    taken = sign(
        RotationRequest(site="b", identity_key=other.identity().public, request=make_request(home)), other.identity()
    )
    assert code_of(lambda: coordinator.enroll(taken)) == "integrity"


def test_an_old_rotation_put_again_brings_no_old_keys_back(home: SiteHome, coordinator: LocalCoordinator) -> None:
    first = make_rotation(home, identity=False)
    for made in (first, None):
        asked = made or make_rotation(home, identity=False)
        kit = coordinator.enroll(asked).kit
        accept_kit(home, kit, None, now())
        assert coordinator._store.connected(fingerprint_of(kit), 1) is not None
        rotation.connected(home)
    assert code_of(lambda: coordinator.enroll(first)) == "key-retired"


def fingerprint_of(kit: JoinKit) -> str:
    return x509.load_pem_x509_certificate(kit.certificate.encode()).fingerprint(hashes.SHA256()).hex()


def test_keys_of_a_site_that_never_joined_cannot_be_rotated(
    home: SiteHome, coordinator: LocalCoordinator, tmp_path: Path
) -> None:
    elsewhere = CoordinatorHome.create(
        tmp_path / "other", name="o", host="localhost", bind="127.0.0.1", port=1, control_port=2, now=now()
    )
    made = make_rotation(home, identity=False)
    assert code_of(lambda: LocalCoordinator(elsewhere.path).enroll(made)) == "not-enrolled"


def test_who_may_approve_outlives_a_new_identity(home: SiteHome, coordinator: LocalCoordinator) -> None:
    adams, brown = Identity.generate(), Identity.generate()
    add_approver(home, "Dr. Adams", adams.public, by="Dr. Adams", signer=adams, at=1)
    accept_kit(home, coordinator.enroll(make_rotation(home, identity=True)).kit, None, now())
    after = add_approver(home, "Dr. Brown", brown.public, by="Dr. Adams", signer=adams, at=2)
    assert set(after.approvers) == {"Dr. Adams", "Dr. Brown"}
    assert {link.site_key for link in after.links} == set(rotation.own_keys(home))
    home.key("former.json").unlink()
    with pytest.raises(IntegrityError) as caught:
        load(home)
    assert caught.value.code == "bad-approval"


def test_a_kit_for_new_keys_with_the_old_identity_is_refused(home: SiteHome, coordinator: LocalCoordinator) -> None:
    kit = coordinator.enroll(make_rotation(home, identity=True)).kit
    before = state(home)
    forged = kit.model_copy(update={"identity_key": home.identity().public})
    assert code_of(lambda: accept_kit(home, forged, None, now())) == "bad-signature"
    assert state(home) == before


def test_a_rotation_file_is_read_as_one(home: SiteHome, tmp_path: Path) -> None:
    file = tmp_path / "rotation.json"
    for made in (make_rotation(home, identity=True), make_request(home)):
        file.write_text(made.model_dump_json())
        assert read_request(file) == made
