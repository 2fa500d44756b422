"""What a person needs to reach a coordinator from another machine: a request out, access back. The private key stays where it is.

NAME.key          the person's private key (0600), made where they work
NAME.csr          the certificate request (PKCS #10, RFC 2986), which goes to the coordinator's machine
NAME.access.json  address, CA and certificate, which come back; it lies beside the key
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import Field

from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.study.enrolment import Pem
from fedward.study.fields import NAME, Part
from fedward.study.files import read_model, read_secret, write_atomic

SUFFIX = ".access.json"


class Access(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    federation_name: Annotated[str, Field(min_length=1, max_length=200)]
    name: Annotated[str, Field(pattern=NAME)]
    role: Annotated[str, Field(pattern=NAME)]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: Annotated[int, Field(ge=1, le=65535)]
    ca: Pem
    certificate: Pem


def request_access(name: str, folder: Path) -> Path:
    """Make a key and the request for its certificate; the request's path.

    Raises:
        UsageError: there is a key of that name in the folder.
        InputError: the name is none.
        UnreachableError: the folder cannot be written.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(
            "the name cannot be used", expected="small letters, digits, - and _, at most 64", remedy="choose another"
        )
    key_file, request_file = folder / f"{name}.key", folder / f"{name}.csr"
    if key_file.exists():
        raise UsageError(f"{key_file} exists already", remedy="use it, or choose another name or folder")
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA384())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomic(key_file, pem, 0o600)  # the folder may be any: its permissions are the person's affair
    write_atomic(request_file, request.public_bytes(serialization.Encoding.PEM))
    return request_file


def load_access(path: Path) -> tuple[Access, bytes]:
    """The access in a file, and the key (PEM) that lies beside it.

    Raises:
        InputError: the file is none, or there is no key.
        IntegrityError: others may read the key, or it is another certificate's.
    """
    access = read_model(path, Access, "access file")
    key_file = path.parent / f"{access.name}.key"
    if not key_file.is_file():
        raise InputError(
            f"no key of this access at {key_file}",
            remedy="put the key that `operator request` made beside the access file",
        )
    key = read_secret(key_file, "the key of this access")
    try:
        certificate = x509.load_pem_x509_certificate(access.certificate.encode())
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise InputError(f"{path.name} or its key is damaged", remedy="ask the coordinator for a fresh one") from None
    if certificate.public_key() != private.public_key():
        raise IntegrityError(
            f"the key beside {path.name} is not its certificate's",
            remedy=f"put {access.name}.key of the request beside it",
            code="foreign-key",
        )
    return access, key
