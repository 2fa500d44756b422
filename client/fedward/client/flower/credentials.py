"""How a site proves itself to the coordinator: its TLS files and its node key, read and checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from fedward.client.flower.diagnosis import CREDENTIALS_UNREADABLE
from fedward.privacy.errors import InputError


@dataclass(frozen=True)
class FleetAddress:
    """Where the coordinator listens and how this site proves itself there. All files are PEM; the node key (EC,
    P-384) may also be in OpenSSH format. Both keys are under the password, if there is one."""

    host: str
    port: int
    ca: Path
    certificate: Path
    key: Path
    node_key: Path
    password: bytes | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    """The home's own setting, as `proxy.proxy_for` takes it."""


def tls_context(address: FleetAddress) -> ssl.SSLContext:
    """TLS 1.3 with the site's certificate, trusting the federation's CA and no other.

    Raises:
        InputError: a file is missing or is not what it must be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=address.ca)
        context.load_cert_chain(address.certificate, address.key, password=_password(address))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(
            "The site's TLS files cannot be used",
            expected=f"PEM files {address.ca}, {address.certificate} and its key {address.key}",
            got=type(error).__name__,
            remedy="issue the site's certificate again, or correct the paths",
            code=CREDENTIALS_UNREADABLE,
        ) from error
    return context


def _password(address: FleetAddress) -> Callable[[], bytes]:
    """As a function: without one, OpenSSL would ask the terminal for what it lacks."""
    return lambda: address.password or b""


def node_key(path: Path, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The node's key for Flower's own authentication.

    Raises:
        InputError: it cannot be read or is not an EC P-384 key.
    """
    got = "another kind of key"
    try:
        text = path.read_bytes()
        load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in text else load_pem_private_key
        key = load(text, password=password)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        got = type(error).__name__
    else:
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
            return key
    raise InputError(
        f"The node key {path} cannot be used",
        expected="an EC P-384 private key under this home's password, in PEM or OpenSSH format",
        got=got,
        remedy="create the site's keys again and send the new public key to the coordinator",
        code=CREDENTIALS_UNREADABLE,
    )
