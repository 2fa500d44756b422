"""A site's home folder: where its keys, policy, registered data, approvals, ledger and log lie.

site.json            the site's name                        keys/       private keys and the patient key (0600)
policy.toml          what this hospital refuses              federation.json, ca.pem, site.pem   from the kit
datasets/ID.json     data registered for a study             proposals/DIGEST.json   what a coordinator offered
approvals/DIGEST.json  what a person here decided            ledger.sqlite, ledger.sqlite.head   privacy spent and reserved
ledger.countersigned   the newest head of the ledger that the coordinator has signed
log/site.log         what happened, for this hospital only
incidents/           lies that this site was told, with the signed bytes that prove them
opened/DIGEST.jsonl  which sums of un-noised numbers this site helped to open
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.policy import DEFAULT_POLICY
from fedward.client.split import KEY_BYTES
from fedward.privacy.countersign import countersigned
from fedward.privacy.entries import broken
from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.privacy.ledger import Budget, Head, Ledger
from fedward.privacy.ledgerfile import head_path
from fedward.privacy.signing import Identity
from fedward.study.enrolment import JoinKit
from fedward.study.files import read_json, read_model, read_secret, write_atomic, write_secret


@dataclass(frozen=True)
class SiteHome:
    """Paths and keys of one site. Opening it reads nothing secret."""

    path: Path

    @classmethod
    def create(cls, path: Path, site: str, budget: Budget) -> SiteHome:
        """A new home with fresh keys, the default policy and an empty ledger.

        Raises:
            UsageError: a site lives there already.
        """
        home = cls(path)
        if home.site_file.exists():
            raise UsageError(f"a site already lives in {path}", remedy="choose another --home, or keep using this one")
        write_secret(home.key("identity.pem"), Identity.generate().pem())
        write_secret(home.key("node.pem"), _ec_pem())
        write_secret(home.key("tls.pem"), _ec_pem())
        write_secret(home.key("patients.key"), os.urandom(KEY_BYTES))
        write_atomic(home.policy_file, DEFAULT_POLICY.encode())
        if not home.ledger_file.exists():
            Ledger.create(home.ledger_file, budget=budget, lineage=os.urandom(16).hex()).close()
        # Written last: its presence says that everything before it is whole, so a broken init can be run again.
        write_atomic(home.site_file, json.dumps({"format": 1, "site": site}).encode())
        return home

    @classmethod
    def open(cls, path: Path) -> SiteHome:
        """
        Raises:
            InputError: no site lives there.
        """
        home = cls(path)
        if not home.site_file.is_file():
            raise InputError(
                f"no site lives in {path}", remedy="run `fedward site init` first, or give the right --home"
            )
        return home

    def key(self, name: str) -> Path:
        return self.path / "keys" / name

    @property
    def site_file(self) -> Path:
        return self.path / "site.json"

    @property
    def policy_file(self) -> Path:
        return self.path / "policy.toml"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def countersigned_file(self) -> Path:
        return self.path / "ledger.countersigned"

    @property
    def kit_file(self) -> Path:
        return self.path / "federation.json"

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def certificate_file(self) -> Path:
        return self.path / "site.pem"

    @property
    def log_file(self) -> Path:
        return self.path / "log" / "site.log"

    @property
    def opened_folder(self) -> Path:
        return self.path / "opened"

    @property
    def metrics_folder(self) -> Path:
        return self.path / "own-metrics"

    @property
    def incidents_folder(self) -> Path:
        return self.path / "incidents"

    @property
    def site(self) -> str:
        data = read_json(self.site_file, "site file")
        if not isinstance(data, dict) or not isinstance(data.get("site"), str):
            raise IntegrityError(f"{self.site_file} is damaged", remedy="restore it from a backup")
        return str(data["site"])

    def identity(self) -> Identity:
        return Identity.from_pem(read_secret(self.key("identity.pem"), "the site's identity key"))

    def patient_key(self) -> bytes:
        return read_secret(self.key("patients.key"), "the site's patient key")

    def kit(self) -> JoinKit:
        """
        Raises:
            InputError: the site has not joined a federation.
        """
        if not self.kit_file.is_file():
            raise InputError(
                f'site "{self.site}" has not joined a federation',
                remedy="run `fedward site enroll KIT` with the signed kit",
            )
        return read_model(self.kit_file, JoinKit, "kit")

    def ledger(self) -> Ledger:
        """The ledger, compared with its head file and with the newest head that the coordinator has countersigned.

        Raises:
            InputError: its format is another version's.
            IntegrityError: it is gone, broken, cut short or rolled back.
        """
        if not self.ledger_file.exists() and not head_path(self.ledger_file).exists():
            raise broken(f"the privacy ledger of this site is gone: there is no {self.ledger_file}")
        return Ledger.open(self.ledger_file, witness=self.countersigned_head())

    def countersigned_head(self) -> Head | None:
        """The newest head of the ledger that the coordinator has countersigned; None if it never did.

        Raises:
            IntegrityError: the file was changed.
        """
        if not self.countersigned_file.is_file():
            return None
        kit = self.kit()
        return countersigned(self.countersigned_file.read_bytes(), kit.site, kit.coordinator_key)

    def keep_countersigned(self, data: bytes) -> None:
        """Keeps a countersigned head, unless an equal or newer one is kept.

        Raises:
            IntegrityError: it is not the coordinator's, or not of this site.
        """
        kit = self.kit()
        head, kept = countersigned(data, kit.site, kit.coordinator_key), self.countersigned_head()
        if kept is None or head.sequence > kept.sequence:
            write_atomic(self.countersigned_file, data, 0o600)


def _ec_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
