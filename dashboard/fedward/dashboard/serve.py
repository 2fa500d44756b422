"""Runs the monitor: Streamlit, without telemetry, until somebody ends it.

On loopback without an access file. Beyond it only with one: a provider that vouches for people, TLS, and a list of who may look.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomli_w

from fedward.dashboard.accessfile import CALLBACK, Access, client_secret, cookie_secret, load, loopback, tls_files
from fedward.privacy.errors import FedwardError, InputError, RefusalError, UnreachableError

HOST = "127.0.0.1"
PORT = 8501
"""Streamlit's own; where it is taken and none was asked for, any free one serves."""

_HOSTS = (HOST, "localhost")
"""Names that a browser may have come by: a page of somebody else whose name resolves to here reads nothing."""
_OPTIONS = {
    "global.developmentMode": "false",
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.trustedUserHeaders": "{}",
    "server.enableAgentApi": "false",
    "server.enableStaticServing": "false",
    "server.scriptHealthCheckEnabled": "false",
    "server.baseUrlPath": "",
    "server.maxUploadSize": "1",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "viewer",
    "logger.hideWelcomeMessage": "true",
    "logger.level": "error",
}
"""Whatever the environment or a `config.toml` says: nobody is known by a header, and no other door than the pages is open."""


@dataclass(frozen=True)
class Listener:
    """Where to listen, and for whom: an access file's, or this machine's own."""

    address: str
    port: int
    url: str
    file: Path | None = None
    access: Access | None = None

    @property
    def callback(self) -> str:
        """Where the provider sends people back to."""
        return self.url + CALLBACK


def here(port: int, address: str = HOST) -> Listener:
    """A port of this machine, for whoever can reach it."""
    return Listener(address, port, f"http://{f'[{address}]' if ':' in address else address}:{port}")


def of_file(file: Path) -> Listener:
    """Where an access file has the monitor listen, after a look at everything that it names.

    Raises:
        InputError: the file, or one that it names, is missing or not what it must be.
        IntegrityError: others may change the file, or read a secret.
    """
    access, folder = load(file), file.absolute().parent
    client_secret(access, folder)
    cookie_secret(access, folder)
    tls_files(access, folder)
    return Listener(access.listen.address, access.listen.port, access.listen.url, file.absolute(), access)


def closed(address: str) -> None:
    """
    Raises:
        RefusalError: others than this machine could reach the address, and nothing says who may look.
    """
    if not loopback(address):
        raise RefusalError(
            f"the monitor is not opened at {address} to whoever can reach it",
            expected="an access file with an OpenID Connect provider, TLS (or behind_proxy = true) and at least one [[allow]]",
            got="no --access",
            remedy="write one as docs/monitor-access.md says, then fedward monitor RUN --access FILE; or leave out --address",
            code="monitor-open",
        )


def installed() -> None:
    """
    Raises:
        InputError: Streamlit is not installed.
    """
    if find_spec("streamlit") is None:
        raise InputError("the monitor needs Streamlit", remedy='pip install "fedward[monitor]"', code="no-streamlit")


def free_port(wanted: int | None, address: str = HOST) -> int:
    """The port asked for; else the usual one, or any that is free.

    Raises:
        UnreachableError: the port asked for is taken or may not be used.
    """
    if wanted is not None:
        if _bound(wanted, address) is None:
            raise UnreachableError(
                f"port {wanted} of {address} is taken or may not be used",
                remedy="choose another --port, or leave it out"
                if address == HOST
                else "choose another port in the access file, or end what uses it",
                code="port-taken",
            )
        return wanted
    return _bound(PORT, address) or _bound(0, address) or PORT


def _bound(port: int, address: str) -> int | None:
    """The port that could be bound, 0 standing for any; None where it could not."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((address, port))
        except OSError:
            return None
        return int(opened.getsockname()[1])


def serve(kind: str, named: str, at: Listener, browser: bool) -> None:
    """Serve a monitor until SIGINT or SIGTERM.

    Args:
        kind: "run" or "store", as `app` reads it.
        named: the run's folder, or the store's place.
        at: where, and for whom.
        browser: whether to open it there.

    Raises:
        RefusalError: the address is not loopback, and there is no access file.
        InputError, IntegrityError: as `of_file`.
    """
    if at.access is None:
        closed(at.address)
    from streamlit import logger, net_util  # noqa: PLC0415 - slow, and a node may lack it

    logger.set_log_level(_OPTIONS["logger.level"].upper())  # before pages are imported: outside a page its caches warn
    from streamlit.web.cli import main  # noqa: PLC0415

    threading.Thread(target=_warm, daemon=True).start()
    # Imported before anybody waits for the first page.
    from fedward.dashboard import charts, gatekeeper  # noqa: F401, PLC0415
    from fedward.dashboard.federation import pages  # noqa: F401, PLC0415

    if kind == "store":
        threading.Thread(target=_read_ahead, args=(named,), daemon=True).start()
    net_util._external_ip = HOST  # else Streamlit asks the internet for it at any page's foreign origin
    gatekeeper.guard(at.file)
    script = str(Path(__file__).with_name("app.py"))
    with _secrets(at) as secrets:
        flags = [f"--{name}={value}" for name, value in _options(at, browser).items()]
        flags += [f"--server.allowedHosts={host}" for host in _hosts(at)]
        flags += [f"--secrets.files={secrets}"]
        main.main(["run", script, *flags, "--", kind, named], prog_name="streamlit", standalone_mode=False)


def _options(at: Listener, browser: bool) -> dict[str, str]:
    made = _OPTIONS | {
        "server.address": at.address,
        "server.port": str(at.port),
        "server.headless": "false" if browser and at.access is None else "true",
    }
    if at.access is None or at.file is None:
        return made
    made |= {"browser.serverAddress": at.access.listen.host, "server.corsAllowedOrigins": at.url}
    tls = tls_files(at.access, at.file.parent)
    return made if tls is None else made | {"server.sslCertFile": str(tls[0]), "server.sslKeyFile": str(tls[1])}


def _hosts(at: Listener) -> tuple[str, ...]:
    return (*_HOSTS, at.address) if at.access is None else (at.access.listen.host,)


@contextlib.contextmanager
def _secrets(at: Listener) -> Iterator[Path]:
    """What Streamlit reads its sign-in from: a file that only its owner reads, in a folder that goes when the monitor ends."""
    base = os.environ.get("XDG_RUNTIME_DIR")  # in memory, where there is one
    with tempfile.TemporaryDirectory(
        prefix="fedward-monitor-", dir=base if base and Path(base).is_dir() else None
    ) as made:
        file = Path(made) / "secrets.toml"
        file.touch(0o600)
        if at.access is not None and at.file is not None:
            file.write_bytes(tomli_w.dumps(_sign_in(at, at.access, at.file.parent)).encode())
        yield file


def _sign_in(at: Listener, access: Access, folder: Path) -> Mapping[str, Any]:
    """Streamlit's `[auth]`."""
    return {
        "auth": {
            "redirect_uri": at.callback,
            "cookie_secret": cookie_secret(access, folder),
            "client_id": access.provider.client_id,
            "client_secret": client_secret(access, folder),
            "server_metadata_url": access.provider.server_metadata_url,
            "client_kwargs": {"scope": access.provider.scope, "code_challenge_method": "S256"},
        }
    }


def _read_ahead(named: str) -> None:
    """Reads the newest study into the reader that all pages share; what cannot be read, they say."""
    from fedward.dashboard.federation.pages.frame import reader_of  # noqa: PLC0415
    from fedward.dashboard.federation.place import place  # noqa: PLC0415

    with contextlib.suppress(FedwardError):
        reader_of(place(named)).read_ahead()


def _warm() -> None:
    """The first ε of a process takes seconds, for what it imports: let nobody wait for that on the Privacy page."""
    from fedward.privacy.accounting import epsilon  # noqa: PLC0415
    from fedward.privacy.events import DpEvent  # noqa: PLC0415

    epsilon((DpEvent(2.0, 1.0, 1),), 1e-3)
