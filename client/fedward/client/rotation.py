"""New keys beside the old, until a kit makes them the site's: the site's half of key rotation.

    rotation/            the new keys, and, once it is here and checked, kit.json: from then on the switch is decided
    rotation.previous/   the keys and kit before the switch, until the coordinator has let the node in with the new
    keys/former.json     public keys of former identities: what they signed here stays readable

The switch is a redo log: everything in rotation/ is copied to its place, and then the folder goes. Whoever opens the home
after a crash carries on; done twice it comes to the same. The kit holds CA and certificate, so keys, certificate and kit
change together. The coordinator takes the old keys until the new ones have connected, so `go_back` works until then.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from fedward.client.home import SiteHome, ec_pem
from fedward.privacy.durable import sync_folder
from fedward.privacy.errors import InputError, UsageError
from fedward.privacy.signing import Identity
from fedward.study.enrolment import JoinKit
from fedward.study.files import read_json, read_model, read_secret, write_atomic, write_secret
from fedward.study.lock import hold

NEW, PREVIOUS = "rotation", "rotation.previous"
_KIT = "kit.json"
_PEMS = ("identity.pem", "node.pem", "tls.pem")
_LOCK_S = 30.0


def stage(home: SiteHome, *, identity: bool) -> Path:
    """The folder of the new keys, made now if there is none; asked again it holds the same keys.

    Raises:
        InputError: the site has not joined a federation.
    """
    home.kit()
    folder, password = home.path / NEW, home.key_password
    for name in ("node.pem", "tls.pem"):
        if not (folder / name).is_file():
            write_secret(folder / name, ec_pem(password))
    if identity and not (folder / "identity.pem").is_file():
        write_secret(folder / "identity.pem", Identity.generate().pem(password))
    if not identity:
        (folder / "identity.pem").unlink(missing_ok=True)
    return folder


def staged(home: SiteHome) -> Path | None:
    """The folder of new keys that wait for a kit; None if there are none."""
    folder = home.path / NEW
    return folder if (folder / "tls.pem").is_file() and (folder / "node.pem").is_file() else None


def identity_in(home: SiteHome, folder: Path) -> Identity:
    """The identity that goes with a folder of new keys: its own, or the one that the site has."""
    path = folder / "identity.pem"
    if not path.is_file():
        return home.identity()
    return Identity.from_pem(read_secret(path, "the new identity key"), home.key_password)


def cancel(home: SiteHome) -> None:
    """Drop new keys that wait for a kit.

    Raises:
        UsageError: there are none.
    """
    folder = home.path / NEW
    if not folder.is_dir():
        raise UsageError("there are no new keys to drop", remedy="see where the site stands: fedward site status")
    _drop(folder)


def decide(home: SiteHome, kit: JoinKit) -> None:
    """The kit for the new keys is here and checked: switch to them."""
    write_atomic(home.path / NEW / _KIT, kit.model_dump_json(indent=1).encode(), 0o600)
    carry_on(home)


def carry_on(home: SiteHome) -> None:
    """Finish a switch that is decided; nothing happens if there is none."""
    folder = home.path / NEW
    if not (folder / _KIT).is_file():
        return
    with _alone(home):
        if not (folder / _KIT).is_file():  # another process was faster
            return
        kit = read_model(folder / _KIT, JoinKit, "kit")
        pems = [name for name in _PEMS if (folder / name).is_file()]
        _save_previous(home, pems)
        for name in pems:
            write_secret(home.key(name), read_secret(folder / name, f"the new key {name}"))
        write_atomic(home.ca_file, kit.ca.encode())
        write_atomic(home.kit_file, kit.model_dump_json(indent=1).encode())
        # Last: a running node looks at this file to learn that its keys were replaced.
        write_atomic(home.certificate_file, kit.certificate.encode())
        _drop(folder)


def go_back(home: SiteHome) -> None:
    """Take the keys and kit from before the switch again: the coordinator accepts them until the new ones have connected.

    Raises:
        UsageError: nothing is kept from before: the new ones are in use, or there was no switch.
    """
    previous = home.path / PREVIOUS
    if not (previous / _KIT).is_file():
        raise UsageError(
            "there are no earlier keys to go back to",
            expected="a switch to new keys that the coordinator has not seen yet",
            remedy="rotate again: fedward site rotate",
        )
    back = identity_in(home, previous).public
    home.record("key-rotated", site=home.site, key=back, previous=home.identity().public)
    remember_identity(home)
    with _alone(home):
        _drop(home.path / NEW)
        previous.rename(home.path / NEW)
        sync_folder(home.path)
    carry_on(home)
    _drop(previous)  # the keys that were given up


def connected(home: SiteHome) -> None:
    """The coordinator has let the node in with the keys of now: those from before are of no use, and go."""
    previous = home.path / PREVIOUS
    if previous.is_dir():
        _drop(previous)


def own_keys(home: SiteHome) -> tuple[str, ...]:
    """The public keys of the site's identity and of all its former ones, newest first."""
    return (home.identity().public, *reversed(_former(home)))


def remember_identity(home: SiteHome) -> None:
    """Before a new identity takes its place: what the present one signed here must stay readable."""
    known, public = _former(home), home.identity().public
    if public not in known:
        write_atomic(_former_file(home), json.dumps([*known, public]).encode(), 0o600)


def _former_file(home: SiteHome) -> Path:
    return home.key("former.json")


def _former(home: SiteHome) -> list[str]:
    path = _former_file(home)
    if not path.is_file():
        return []
    found = read_json(path, "list of former identities")
    if not isinstance(found, list) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{path} is no list of public keys", remedy="restore it from a backup")
    return found


def _save_previous(home: SiteHome, pems: list[str]) -> None:
    """Whole or not at all. What is kept already is what the coordinator knows, and stays."""
    previous, part = home.path / PREVIOUS, home.path / f"{PREVIOUS}.part"
    if previous.is_dir():
        return
    shutil.rmtree(part, ignore_errors=True)
    for name in pems:
        write_secret(part / name, read_secret(home.key(name), f"the key {name}"))
    write_atomic(part / _KIT, home.kit_file.read_bytes(), 0o600)
    part.rename(previous)
    sync_folder(home.path)


def _drop(folder: Path) -> None:
    """Remove a folder so that a crash leaves it whole or meaningless: renamed first, then emptied."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_dir():
        folder.rename(gone)
        sync_folder(folder.parent)
        shutil.rmtree(gone, ignore_errors=True)


def _alone(home: SiteHome) -> AbstractContextManager[None]:
    return hold(
        home.path / "rotation.lock",
        _LOCK_S,
        lambda: UsageError("another command is switching this site's keys", remedy="wait for it to end"),
    )
