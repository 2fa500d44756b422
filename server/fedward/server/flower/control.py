"""Flower's control API as the service uses it: its client, its messages, and the forms in which it wants things."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedward.privacy.errors import InputError


def client() -> Any:
    """The client's class; imported late, as all of this, since the ServerApp's process has no use for it."""
    return importlib.import_module("flwr.supercore.control.control_http_client").ControlHttpClient


def protocol() -> Any:
    """The messages' module."""
    return importlib.import_module("flwr.proto.control_pb2")


@lru_cache(maxsize=4096)  # the service asks for every site's at every beat
def node_key(text: bytes) -> bytes:
    """A node's public key in the form in which Flower compares keys."""
    try:
        load = load_pem_public_key if b"BEGIN PUBLIC KEY" in text else load_ssh_public_key
        key = load(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("A node's public key cannot be read", expected="PEM or OpenSSH", got="neither") from error
    if not (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)):
        raise InputError("A node's public key is of the wrong kind", expected="EC P-384", got=type(key).__name__)
    return bytes(public_key_to_bytes(key))


def bundle(component: str, keys: list[str]) -> bytes:
    """An application bundle without code: it names an installed ServerApp and declares the keys of its config."""
    wrong = [key for key in keys if not re.fullmatch(r"[a-z0-9_-]+", key)]
    if wrong:
        raise InputError("A run config has a bad key", expected="lower-case letters, digits, - and _", got=repr(wrong))
    build = importlib.import_module("flwr.cli.build").build_fab_from_files
    declared = "".join(f'{key} = ""\n' for key in keys)
    project = f"""
[project]
name = "fedward-run"
version = "1.0.0"
description = "Names an installed ServerApp; holds no code"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.42.0"]

[tool.flwr.app]
publisher = "fedward"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "{component}"
clientapp = "{component}"  # Flower demands the line; no hospital ever asks for it

[tool.flwr.app.config]
{declared}"""
    return bytes(build({"pyproject.toml": project.encode(), "LICENSE": b"Apache-2.0\n"})[0])


def run_config(config: Mapping[str, str]) -> Any:
    """A run config as its message."""
    return importlib.import_module("flwr.common.serde").user_config_to_proto(dict(config))
