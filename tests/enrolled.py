"""Sites in a coordinator's store without certificates: for tests of what comes after enrolment."""

from __future__ import annotations

import itertools

from fedward.server.records import CredentialRow
from fedward.server.store import Store

_NUMBERS = itertools.count()


def enrol(store: Store, site: str, identity_key: str, node_key: str, at: int = 0) -> str:
    """The fingerprint of the made-up certificate that the site is enrolled with; it holds for a very long time."""
    made = CredentialRow(f"certificate-{next(_NUMBERS)}", site, identity_key, node_key, f"tls-{site}", at, 2**40)
    store.enrol(made)
    return made.fingerprint
