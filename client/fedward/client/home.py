"""A site's home folder: where its keys, policy, registered data, approvals, ledger and log lie.

What says nothing of patients or secrets, or what a person edits, is plain: site.json, policy.toml, the kit, certificates, the
state of the node, incidents (the coordinator's own words), opened sums (digests). All else is encrypted at rest
(`privacy.vault`) and goes through `SiteHome.write`, `read` and `read_part`.

site.json            the site's name                        keys/       private keys and the patient key (0600), home.json
policy.toml          what this hospital refuses              federation.json, ca.pem, site.pem   from the kit
datasets/ID.json     data registered for a study             proposals/DIGEST.json   what a coordinator offered
approvals/             what was decided here, and by whom    ledger.sqlite, ledger.sqlite.head   privacy spent and reserved
ledger.countersigned   the newest head of the ledger that the coordinator has signed
log/site.log         what happened, for this hospital only
incidents/           lies that this site was told, with the signed bytes that prove them
exclusions.json      patients who opted out, by keyed hash
rotation/, rotation.previous/   keys that wait for a kit, and those before a switch (`client.rotation`)
opened/DIGEST.jsonl  which sums of un-noised numbers this site helped to open
audit/, audit.origin  what happened here, for an auditor
restored.json, before-restore/  when the home was put back from a backup, and the decisions before
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from fedward.client import audit
from fedward.client.policy import DEFAULT_POLICY
from fedward.client.split import KEY_BYTES
from fedward.client.unlock import create_vault, open_vault
from fedward.privacy.auditentries import LogEntry, Value
from fedward.privacy.countersign import countersigned
from fedward.privacy.entries import broken
from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.privacy.ledger import Budget, Head, Ledger
from fedward.privacy.ledgerfile import head_path
from fedward.privacy.log import AuditLog
from fedward.privacy.signing import Identity, encrypted_pem
from fedward.privacy.vault import Vault
from fedward.study.enrolment import JoinKit
from fedward.study.fields import Part
from fedward.study.files import read_json, read_model, read_secret, write_atomic, write_secret
from fedward.study.manifest import explain

P = TypeVar("P", bound=Part)
FORMAT: Final = 2
"""Of the home as a whole, in site.json; `migrations` brings an older one up to date."""


def format_of(path: Path) -> int:
    """The format of the home in a folder.

    Raises:
        InputError: no site lives there.
        IntegrityError: its site file is damaged.
    """
    if not (path / "site.json").is_file():
        raise _no_site(path)
    data = read_json(path / "site.json", "site file")
    found = data.get("format") if isinstance(data, dict) else None
    if type(found) is not int or found < 1:
        raise IntegrityError(f"{path / 'site.json'} is damaged", remedy="restore it from a backup")
    return found


def of_other_format(path: Path, found: int) -> InputError:
    """The error that a home is of an earlier or of a newer version."""
    newer = found > FORMAT
    return InputError(
        f"the home in {path} is of {'a newer' if newer else 'an earlier'} version of Fedward",
        expected=f"format {FORMAT}",
        got=f"format {found}",
        remedy="use the version that wrote it, or a newer one" if newer else "fedward site migrate",
        code="newer-home" if newer else "older-home",
    )


def _no_site(path: Path) -> InputError:
    return InputError(f"no site lives in {path}", remedy="run `fedward site init` first, or give the right --home")


@dataclass(frozen=True)
class SiteHome:
    """Paths and keys of one site. Opening it reads nothing secret."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, site: str, budget: Budget, *, passphrase: str | None = None, key_file: Path | None = None
    ) -> SiteHome:
        """A new home with fresh keys, the default policy and an empty ledger.

        Args:
            passphrase: what unlocks the home; without it a key file does.
            key_file: where the key file lies or is made; inside the home by default.

        Raises:
            UsageError: a site lives there already.
            InputError: the passphrase is too short.
        """
        home = cls(path)
        if home.site_file.exists():
            raise UsageError(f"a site already lives in {path}", remedy="choose another --home, or keep using this one")
        if not home.key("home.json").exists():
            create_vault(path, passphrase=passphrase, key_file=key_file)
        password = home.key_password
        write_secret(home.key("identity.pem"), Identity.generate().pem(password))
        write_secret(home.key("node.pem"), ec_pem(password))
        write_secret(home.key("tls.pem"), ec_pem(password))
        home.write(home.key("patients.key"), os.urandom(KEY_BYTES))
        write_atomic(home.policy_file, DEFAULT_POLICY.encode())
        if not home.ledger_file.exists():
            lineage = os.urandom(16).hex()
            Ledger.create(home.ledger_file, budget=budget, lineage=lineage, key=home.ledger_key).close()
        # Written last: its presence says that everything before it is whole, so a broken init can be run again.
        write_atomic(home.site_file, json.dumps({"format": FORMAT, "site": site}).encode())
        home.audit  # noqa: B018  # begun now, so that the log tells from the first day on
        return home

    @classmethod
    def open(cls, path: Path) -> SiteHome:
        """
        Raises:
            InputError: no site lives there, or it is of another format (`older-home`, `newer-home`).
        """
        home = cls(path)
        if not home.site_file.is_file():
            raise _no_site(path)
        found = format_of(path)
        if found != FORMAT:
            raise of_other_format(path, found)
        if (path / "rotation" / "kit.json").is_file():  # a crash fell into a switch of keys
            from fedward.client.rotation import carry_on  # noqa: PLC0415 - it builds on this module

            carry_on(home)
        return home

    @property
    def vault(self) -> Vault:
        """What seals and opens this home's files; errors as `unlock.open_vault`."""
        return open_vault(self.path)

    @property
    def ledger_key(self) -> str:
        """What encrypts the ledger's pages."""
        return self.vault.secret("ledger")

    def write(self, path: Path, data: bytes) -> None:
        """Encrypt a file of this home and replace it in one step, for its owner only; durable on return.

        Raises:
            UnreachableError: the disk is full or the folder cannot be written.
        """
        write_secret(path, self.seal(path, data))

    def read(self, path: Path, what: str) -> bytes:
        """The content of an encrypted file of this home; `what` names it to people.

        Raises:
            InputError: there is none.
            IntegrityError: others may read it, it was changed, or it was put here from another place.
        """
        return self.unseal(path, read_secret(path, what))

    def read_part(self, path: Path, kind: type[P], what: str) -> P:
        """A strict model from an encrypted JSON file; errors as `read`, and IntegrityError where it is no such model."""
        data = self.read(path, what)
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(
                f"{path.name} is no {what}", got=explain(error), remedy="restore it from a backup", code="damaged"
            ) from None

    def seal(self, path: Path, data: bytes) -> bytes:
        """Bytes as they lie in that file of this home, for a writer of its own such as a log's."""
        return self.vault.seal(self._name(path), data)

    def unseal(self, path: Path, sealed: bytes) -> bytes:
        """What `seal` sealed for that file; IntegrityError if it is anything else."""
        return self.vault.open(self._name(path), sealed)

    def sealer(self, path: Path) -> Callable[[bytes], bytes]:
        """`seal` for one file, with the vault opened now: for a log's lines."""
        name, vault = self._name(path), self.vault
        return lambda data: vault.seal(name, data)

    def unsealer(self, path: Path) -> Callable[[bytes], bytes]:
        """The reverse of `sealer`."""
        name, vault = self._name(path), self.vault
        return lambda sealed: vault.open(name, sealed)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def key(self, name: str) -> Path:
        return self.path / "keys" / name

    @cached_property
    def audit(self) -> AuditLog:
        """The site's audit log, begun if there never was one; errors as `study.audit.home_log`."""
        return audit.site_log(self)

    def record(self, kind: str, *, at: int | None = None, **fields: Value | None) -> LogEntry:
        """Add an entry to the audit log, durably; errors as `audit.record`."""
        return audit.record(self, kind, at, fields)

    @property
    def key_password(self) -> bytes:
        """What encrypts the private keys' PEM files (PKCS#8)."""
        return self.vault.secret("keys").encode()

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
    def decisions_file(self) -> Path:
        return self.path / "approvals" / "decisions.json"

    @property
    def decisions_head_file(self) -> Path:
        return self.path / "approvals" / "decisions.head"

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
    def exclusions_file(self) -> Path:
        return self.path / "exclusions.json"

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
        return Identity.from_pem(read_secret(self.key("identity.pem"), "the site's identity key"), self.key_password)

    def patient_key(self) -> bytes:
        return self.read(self.key("patients.key"), "the site's patient key")

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
        kit = read_model(self.kit_file, JoinKit, "kit")
        if kit.site != self.site:
            raise IntegrityError(
                f"{self.kit_file.name} is another site's kit",
                expected=f'the kit of site "{self.site}"',
                got=f'that of "{kit.site}"',
                remedy="enroll this site's own kit again: fedward site enroll KIT",
                code="damaged",
            )
        return kit

    def ledger(self, *, witnessed: bool = True) -> Ledger:
        """The ledger, compared with its head file and, unless told otherwise, with the newest countersigned head.

        Raises:
            InputError: its format is another version's.
            IntegrityError: it is gone, broken, cut short or rolled back.
        """
        if not self.ledger_file.exists() and not head_path(self.ledger_file).exists():
            raise broken(f"the privacy ledger of this site is gone: there is no {self.ledger_file}")
        witness = self.countersigned_head() if witnessed else None
        return Ledger.open(self.ledger_file, witness=witness, key=self.ledger_key)

    def countersigned_head(self) -> Head | None:
        """The newest head of the ledger that the coordinator has countersigned; None if it never did.

        Raises:
            IntegrityError: the file was changed.
        """
        if not self.countersigned_file.is_file():
            return None
        kit = self.kit()
        try:
            kept = self.read(self.countersigned_file, "the ledger's countersigned head")
        except IntegrityError:
            kept = b""  # no countersigned head: the ledger's own error says what to do
        return countersigned(kept, kit.site, kit.coordinator_key)

    def keep_countersigned(self, data: bytes) -> None:
        """Keeps a countersigned head, unless an equal or newer one is kept.

        Raises:
            IntegrityError: it is not the coordinator's, or not of this site.
        """
        kit = self.kit()
        head, kept = countersigned(data, kit.site, kit.coordinator_key), self.countersigned_head()
        if kept is None or head.sequence > kept.sequence:
            self.write(self.countersigned_file, data)


def ec_pem(password: bytes) -> bytes:
    """A fresh EC P-384 key in PEM (PKCS#8), encrypted under the home's password."""
    return encrypted_pem(ec.generate_private_key(ec.SECP384R1()), password)
