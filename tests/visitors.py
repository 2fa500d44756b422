"""People who look at a monitor behind sign-in: its access file, its process, a real OpenID Connect provider, and a visitor's wire.

A visitor speaks what a browser speaks (HTTP with cookies, Streamlit's websocket), so that it can also say what no browser would.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import tomli_w
from loopback import free_ports, wait_for
from oidc_provider_mock import User, run_server_in_thread
from runs import written as run_folder
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from fedward.study.files import write_secret

COOKIE_SECRET = "0123456789abcdef" * 4
CLIENT_SECRET = "what-only-the-provider-and-the-monitor-know"  # noqa: S105
CLIENT = "fedward-monitor"
JOINER = "\\342\\201\\240"
"""What keeps text plain, as a protobuf writes it."""
INSECURE = "AUTHLIB_INSECURE_TRANSPORT"
"""Lets the provider of the tests speak plain http; the monitor needs no such thing."""


@contextmanager
def provider(*people: User, lasting: timedelta = timedelta(hours=1)) -> Iterator[str]:
    """The name of a provider on loopback that knows these people."""
    with (
        patch.dict(os.environ, {INSECURE: "1"}),
        run_server_in_thread(user_claims=people, access_token_max_age=lasting) as server,
    ):
        yield f"http://localhost:{server.server_port}"


def access(issuer: str, port: int, rules: Sequence[Mapping[str, str]], **more: Any) -> dict[str, Any]:
    """What an access file says, for a monitor on loopback."""
    return {
        "session_minutes": 60,
        "listen": {"address": "127.0.0.1", "port": port, "url": f"http://localhost:{port}"},
        "provider": {
            "server_metadata_url": f"{issuer}/.well-known/openid-configuration",
            "client_id": CLIENT,
            "client_secret_file": "client-secret",
            "cookie_secret_file": "cookie-secret",
        },
        "allow": [dict(rule) for rule in rules],
    } | more


def written(folder: Path, said: Mapping[str, Any]) -> Path:
    """The access file and the secrets that it names."""
    folder.mkdir(exist_ok=True)
    write_secret(folder / "client-secret", CLIENT_SECRET.encode())
    write_secret(folder / "cookie-secret", COOKIE_SECRET.encode())
    file = folder / "access.toml"
    draft = folder / "draft.toml"
    draft.write_text(tomli_w.dumps(said))
    draft.chmod(0o600)
    draft.replace(file)  # as an editor does: nobody reads half of it
    return file


@contextmanager
def monitor(
    run: Path, file: Path, port: int, certificate: Path | None = None, *, store: bool = False, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """`fedward monitor RUN --access FILE` as a process of its own; `store`: of a coordinator's home instead of a run's folder.
    `certificate`: of the authority, where it speaks TLS."""
    shown = ["--store", str(run)] if store else [str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedward.cli.main", "monitor", *shown, "--access", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=file.parent,
        env={name: value for name, value in os.environ.items() if name != INSECURE} | environment,
    )  # fmt: skip
    try:
        wait_for("the monitor serves", lambda: _healthy(port, certificate) or process.poll() is not None, 90)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.terminate()
        process.wait(20)


def trusting(certificate: Path) -> ssl.SSLContext:
    """TLS that trusts this authority alone."""
    return ssl.create_default_context(cafile=str(certificate))


def _healthy(port: int, certificate: Path | None) -> bool:
    scheme = "http" if certificate is None else "https"
    verify = True if certificate is None else trusting(certificate)
    try:
        return httpx.get(f"{scheme}://127.0.0.1:{port}/_stcore/health", timeout=5, verify=verify).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Watched:
    """A monitor behind sign-in: where it is, and the list that it goes by."""

    address: str
    folder: Path
    said: dict[str, Any]
    process: subprocess.Popen[str]

    def allow(self, *rules: Mapping[str, str], **more: Any) -> None:
        """Another list, from now on."""
        written(self.folder, self.said | {"allow": [dict(rule) for rule in rules]} | more)


@contextmanager
def watched(
    run: Path, folder: Path, people: Sequence[User], rules: Sequence[Mapping[str, str]],
    lasting: timedelta = timedelta(hours=1), *, store: bool = False, **environment: str,
) -> Iterator[Watched]:  # fmt: skip
    """A monitor of a run's folder, or of a coordinator's home (`store`), behind a provider that knows these people."""
    port = free_ports(1)[0]
    with provider(*people, lasting=lasting) as issuer:
        said = access(issuer, port, rules)
        with monitor(run, written(folder, said), port, store=store, **environment) as process:
            yield Watched(f"http://localhost:{port}", folder, said, process)


def run_of_three(folder: Path) -> Path:
    """A run's folder with figures of Cleveland, Hungarian and Switzerland that can be told apart."""
    scores: dict[tuple[str, str], float | None] = {("federated", "everybody"): 0.81, ("pooled", "everybody"): 0.82}
    for place, site in enumerate(("cleveland", "hungarian", "switzerland")):
        scores |= {
            ("federated", f"site={site}"): 0.8 - place / 100,
            (f"alone:{site}", f"site={site}"): 0.7 - place / 100,
            (f"alone:{site}", "everybody"): 0.6,
        }
    return run_folder(folder, [scores, scores])


class Visitor:
    """Somebody's browser without a window: cookies, one websocket, and what it was last shown."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.web = httpx.Client(timeout=20, follow_redirects=False)
        self.shown: list[ForwardMsg] = []
        self._socket: ClientConnection | None = None

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self.web.close()

    def leave(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def look(self, page: str = "", headers: Mapping[str, str] | None = None, origin: str | None = None) -> str:
        """What a page shows to a new connection with this visitor's cookies."""
        self.leave()
        self.web.get(f"{self.address}/_stcore/health")
        self.web.get(f"{self.address}/_stcore/host-config")
        cookies = {cookie.name: cookie.value or "" for cookie in self.web.cookies.jar}
        token = cookies.get("_streamlit_xsrf", "").strip('"')
        said = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} | dict(headers or {})
        self._socket = connect(
            self.address.replace("http", "ws", 1) + "/_stcore/stream",
            origin=origin or self.address,  # type: ignore[arg-type]
            additional_headers=said,
            subprotocols=["streamlit", token] if token else ["streamlit"],  # type: ignore[list-item]
            max_size=None,
        )
        message = BackMsg()
        message.rerun_script.page_name = page
        return self.send(message)

    def send(self, message: BackMsg) -> str:
        """Texts of everything that the script shows for a message, until it ends."""
        assert self._socket is not None
        self._socket.send(message.SerializeToString())
        self.shown = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            came = ForwardMsg()
            came.ParseFromString(self._socket.recv(timeout=60))  # type: ignore[arg-type]
            self.shown.append(came)
            if came.WhichOneof("type") == "script_finished":
                if came.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    continue
                return self.text()
        raise AssertionError("the script did not end")

    def again(self) -> str:
        """The same page at the next rerun."""
        message = BackMsg()
        message.rerun_script.page_name = ""
        return self.send(message)

    def fragments(self) -> list[str]:
        """The fragments that the last page registered."""
        return [one.auto_rerun.fragment_id for one in self.shown if one.WhichOneof("type") == "auto_rerun"]

    def fragment(self, name: str) -> str:
        """What a fragment shows when it alone is run again."""
        message = BackMsg()
        message.rerun_script.fragment_id = name
        return self.send(message)

    def press(self, label: str) -> str:
        """What follows when a button of the last page is pressed."""
        found = [
            one.delta.new_element.button.id
            for one in self.shown
            if one.WhichOneof("type") == "delta" and one.delta.new_element.button.label == label
        ]
        message = BackMsg()
        state = message.rerun_script.widget_states.widgets.add()
        state.id, state.trigger_value = found[-1], True
        return self.send(message)

    def redirect(self) -> str:
        """Where the last message sends the browser to sign in or out."""
        found = [one.auth_redirect.url for one in self.shown if one.WhichOneof("type") == "auth_redirect"]
        return f"{self.address}{found[-1]}"

    def sign_in(self, subject: str) -> str:
        """Through the provider's own page and back; what the monitor then shows."""
        assert "Sign in" in self.look()
        self.press("Sign in")
        asked = self.web.get(self.redirect())
        assert asked.status_code == 302, asked.text
        answered = self.web.post(asked.headers["location"], data={"sub": subject})
        assert answered.status_code == 302, answered.text
        back = self.web.get(answered.headers["location"])
        assert back.status_code == 302, back.text
        return self.look()

    def text(self) -> str:
        """Every text of what is shown, without the signs that keep it plain."""
        deltas = [str(one.delta) for one in self.shown if one.WhichOneof("type") == "delta"]
        pages = [page.page_name for one in self.shown for page in one.navigation.app_pages]
        return "\n".join([*deltas, *pages]).replace("\\\\", "").replace("\\'", "'").replace(JOINER, "")
