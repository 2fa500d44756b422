"""The door of the monitor's pages: at every rerun it asks anew whether whoever looks may, and shows why not.

`admitted` is called before anything is read or shown, in the script and in every page. Streamlit runs a fragment again without the
script around it, so what runs on a timer or after a click is made with `fragment`, which asks first. Nothing is written here.

Who looks is what Streamlit verified of its signed cookie when the page's connection was made. The rules are read from the access
file at each rerun: whoever is taken off the list, whose session ends, or whose list cannot be read sees nothing more, and an open
page asks every few seconds by itself. Pages have no callbacks (`on_click`), which Streamlit would run before the script.

Caches (`st.cache_data`) are shared by everybody who looks. They hold what the store or folder says, whole and the same for all,
under keys that name no person; `redaction` takes out what a role does not see after they are read and before a page gets it.
Nothing that was made for one person is ever put in a cache.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, ParamSpec

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.access import LOCAL, Decision, Denied, Granted, decide, visible
from fedward.dashboard.accessfile import Access, load, loopback
from fedward.privacy.errors import FedwardError

P = ParamSpec("P")

EVERY_S: Final = 5
"""How often an open page asks whether it may stay open."""

_AS: Final = "fedward-seen-as"
"""Where a session keeps as what its page was drawn: role and site."""
_LOG: Final = logging.getLogger(__name__)
_OPEN: Final = Denied(
    "This monitor can be reached from other machines, and has no list of who may look. Start it with `fedward monitor`.",
    "no-access-file",
)
_TITLES: Final = {"not-signed-in": "Sign in to the monitor", "session-ended": "Your session has ended"}


class _Post:
    """Which list this process goes by: one for all sessions, given before the first."""

    file: Path | None = None


def guard(file: Path | None) -> None:
    """Go by an access file; by none, only a server that listens on loopback alone lets anybody in."""
    _Post.file = file


def judged() -> Decision:
    """Whether whoever looks may, at this moment."""
    if _Post.file is None:
        return LOCAL if loopback(str(st.get_option("server.address") or "")) else _OPEN
    access = _list(_Post.file)
    if access is None:
        return Denied("The list of who may look cannot be read, so nobody may.", "unreadable-list")
    return decide(st.user.to_dict(), time.time(), access.rules)


def admitted() -> Granted:
    """Who looks. Whoever may not gets a page that says why, and the script ends here."""
    found = judged()
    if isinstance(found, Denied):
        _refuse(found)
    st.session_state[_AS] = (found.role, found.site)
    return found


def fragment(run_every: float | None = None) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """As `st.fragment`, for what shows anything: it asks before each run. Whoever may not look gets the page that says why; whose
    role is another than when the page was drawn, gets it drawn anew."""

    def made(shown: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(shown)
        def asked(*given: P.args, **named: P.kwargs) -> None:
            found = judged()
            if isinstance(found, Denied) or st.session_state.get(_AS) != (found.role, found.site):
                st.rerun(scope="app")
            shown(*given, **named)

        again: Callable[P, None] = st.fragment(asked, run_every=run_every)
        return again

    return made


def kept(name: str, page: Callable[[str], None]) -> Callable[[str], None]:
    """A page as those get it whose role has it; any other reads nothing. `name`: the last part of its address."""

    @functools.wraps(page)
    def asked(named: str) -> None:
        granted = admitted()
        if visible(granted, name):
            page(named)
        else:
            _not_for(granted)

    return asked


def _not_for(granted: Granted) -> None:
    """In the place of a page that whoever looks at others may not look at."""
    st.subheader("This page is not for your role", anchor=False)
    st.info(
        f"It is for the study's coordinators and auditors; your role is {words.plain(granted.role)}.",
        icon=":material/visibility_off:",
    )


def account(granted: Granted) -> None:
    """Who is signed in, as what, until when, and the way out; once a page. Nothing where nobody signs in."""
    if granted.until is None:
        return
    _watch()
    with (
        st.container(horizontal=True, horizontal_alignment="right"),
        st.popover(words.plain(granted.who, 40), icon=":material/account_circle:", type="tertiary"),
    ):
        st.markdown(f"Signed in as **{words.plain(granted.who)}**")
        st.caption(words.plain(_part(granted), 300))
        if st.button("Sign out", icon=":material/logout:", key="account-sign-out", width="stretch"):
            st.logout()


@fragment(run_every=EVERY_S)
def _watch() -> None:
    """Shows nothing: an open page that may not stay open is drawn anew."""


def _list(file: Path) -> Access | None:
    try:
        return load(file)
    except FedwardError as error:
        _LOG.error("nobody is let in: %s", error)
    except OSError as error:
        _LOG.error("nobody is let in: %s cannot be read (%s)", file, type(error).__name__)
    return None


def _part(granted: Granted) -> str:
    until = time.strftime("%H:%M", time.gmtime(granted.until))
    role = granted.role if granted.site is None else f"{granted.role} {granted.site}"
    return f"Role: {role}. The session ends at {until} UTC."


def _refuse(denied: Denied) -> NoReturn:
    """The page of whoever is not let in, in place of every other."""
    st.navigation(
        [st.Page(functools.partial(_page, denied), title="Sign in", url_path="sign-in")], position="hidden"
    ).run()
    st.stop()


def _page(denied: Denied) -> None:
    st.space("large")
    _, middle, _ = st.columns([3, 4, 3])
    with middle, st.container(border=True, gap="small"):
        st.markdown(":material/shield_lock: **Fedward monitor**")
        if denied.code in _TITLES:
            _sign_in(denied)
        else:
            _no_entry(denied)


def _sign_in(denied: Denied) -> None:
    st.subheader(_TITLES[denied.code], anchor=False)
    if denied.code == "session-ended":
        st.markdown("Sign in again to go on.")
    else:
        st.markdown("It is open to people whom the study's coordinator has let in.")
    if st.button("Sign in", icon=":material/login:", width="stretch"):
        st.login()
    st.caption("You are taken to your organisation's own sign-in page and back. The monitor never sees your password.")


def _no_entry(denied: Denied) -> None:
    st.subheader("You cannot look at this monitor", anchor=False)
    st.error(words.plain(denied.why, 300), icon=":material/block:")
    if _Post.file is None:
        return
    access = _list(_Post.file)
    ask = words.plain(access.contact, 300) if access is not None and access.contact else "the study's coordinator"
    st.markdown(f"If you should be able to, ask {ask}.")
    if denied.code == "not-on-the-list":
        st.markdown("They need the name by which your account is known:")
        st.code(words.one_line(st.user.to_dict().get("sub", ""), 300), language=None, wrap_lines=True)
    if st.button("Sign out", icon=":material/logout:", width="stretch"):
        st.logout()
    st.caption(f"{f'Signed in as {words.plain(denied.who)}. ' if denied.who else ''}Code: {denied.code}")
