"""Who writes an encrypted home's files without a key of it calls it an older one, so that a migration takes plain files in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedward.client import exclusions
from fedward.client.home import SiteHome
from fedward.client.migrations import migrate
from fedward.privacy.errors import IntegrityError
from fedward.privacy.ledger import Budget, Ledger
from fedward.privacy.ledgerfile import head_path
from fedward.privacy.signing import Identity
from fedward.study.files import write_secret


@pytest.mark.parametrize("planted", ["patients.key", "identity.pem", "ledger"])
def test_a_plain_file_planted_for_a_migration(tmp_path: Path, planted: str) -> None:
    home = SiteHome.create(tmp_path / "home", "va", Budget(10.0, 1e-3))
    exclusions.add(home, ["opted-out"])
    home.site_file.write_text(json.dumps({"format": 1, "site": "va"}))
    if planted == "patients.key":  # under another key nobody is on the exclusion list any more
        write_secret(home.key(planted), bytes(32))
    elif planted == "identity.pem":
        write_secret(home.key(planted), Identity.generate().pem())
    else:
        home.ledger_file.unlink()
        head_path(home.ledger_file).unlink()
        Ledger.create(home.ledger_file, budget=Budget(99.0, 1e-3), lineage="ab" * 16, key=None).close()
    with pytest.raises(IntegrityError) as refused:
        migrate(home.path)
    assert refused.value.code == "damaged"
    assert json.loads(home.site_file.read_text())["format"] == 1
