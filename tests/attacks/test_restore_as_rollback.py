"""A restore is used to undo what must not be undone: an opt-out, a withdrawal; or to carry keys out with a backup."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import APPROVER, Federation, decide, heart_manifest, key_of
from hospital import SITE, Site, code

from fedward.client import datasets, exclusions
from fedward.client.approvers import default_key_file
from fedward.client.backup import make_backup
from fedward.client.decisions import load
from fedward.client.home import SiteHome
from fedward.client.restoring import restore
from fedward.client.withdrawing import withdraw
from fedward.privacy.errors import IntegrityError, RefusalError
from fedward.study.files import write_secret
from fedward.study.heart import heart_folder

STUDY = "heart-4-hospitals"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    federation = Federation(tmp_path / "federation", sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}))
    return Site(federation)


def put_back(site: Site, file: Path) -> SiteHome:
    restore(
        file,
        site.home.path,
        by="it",
        reason="the disk died",
        at=site.federation.clock.unix(),
        statement="none-approved",
    )
    site.home = SiteHome.open(site.home.path)
    site.federation.restart(SITE)
    return site.home


def test_opt_out_undone_by_a_restore(site: Site, tmp_path: Path) -> None:
    make_backup(site.home, tmp_path / "backup", site.federation.clock.unix())
    exclusions.add(site.home, ["never-in-the-data", "nor-this-one"])
    home = put_back(site, tmp_path / "backup")
    assert len(exclusions.listed(home)) == 2
    exclusions.forget(home.path)  # as in a new process
    assert len(exclusions.listed(home)) == 2
    home.exclusions_file.unlink()
    exclusions.forget(home.path)
    with pytest.raises(IntegrityError, match="opted out"):  # the restored home's log knows of them too
        exclusions.listed(home)


def test_list_deleted_after_a_restore(site: Site, tmp_path: Path) -> None:
    exclusions.add(site.home, ["never-in-the-data"])
    make_backup(site.home, tmp_path / "backup", site.federation.clock.unix())
    site.home.exclusions_file.unlink()
    home = put_back(site, tmp_path / "backup")
    assert len(exclusions.listed(home)) == 1
    home.exclusions_file.unlink()
    exclusions.forget(home.path)  # as in a new process
    with pytest.raises(IntegrityError, match="opted out"):
        exclusions.listed(home)


def test_withdrawal_undone_by_a_restore(site: Site, tmp_path: Path) -> None:
    make_backup(site.home, tmp_path / "backup", site.federation.clock.unix())
    pem = default_key_file(site.home, APPROVER).read_bytes()
    withdraw(site.home, STUDY, by=APPROVER, signer=key_of(site.home), at=site.federation.clock.unix())
    home = put_back(site, tmp_path / "backup")
    site.federation.clock.elapsed += 100
    at = site.federation.clock.unix()
    assert load(home, anew=True).withdrawn_at(STUDY) is not None
    folder = heart_folder()
    datasets.register(home, site.sealed.manifest, folder / "va.csv", folder / "va.mapping.toml", at)
    write_secret(default_key_file(home, APPROVER), pem)
    with pytest.raises(RefusalError) as refused:
        decide(home, site.sealed, "approved", at)
    assert refused.value.code == "withdrawn"
    assert code(site.work()) == "withdrawn"


def test_keys_that_a_cut_off_rotation_left_stay_out_of_a_backup(site: Site, tmp_path: Path) -> None:
    for name in ("rotation.gone", "rotation.previous.part", "rotation.previous.gone"):
        (site.home.path / name).mkdir()
        (site.home.path / name / "identity.pem").write_bytes(site.home.key("identity.pem").read_bytes())
    made = make_backup(site.home, tmp_path / "backup", site.federation.clock.unix())
    assert not [name for name in made.files if name.startswith("rotation")]
