"""systemd units of this package, filled in for one machine: `*.service` with the one `hardening.conf` that they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from ipaddress import ip_network
from pathlib import Path
from string import Template

from fedward.privacy.errors import InputError

_USER = r"[a-z_][a-z0-9_-]{0,31}"
_MEMORY = r"[1-9][0-9]*[KMGT]?"
# Below these, ProtectHome=yes would hide what the service must read.
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


def fill(
    name: str,
    *,
    user: str,
    home: Path,
    command: Sequence[str],
    memory: str,
    reads: Sequence[Path] = (),
    credential: Path | None = None,
    only_to: Sequence[str] = (),
) -> str:
    """A unit's text.

    Args:
        name: such as "fedward-site.service".
        user: who runs it.
        home: the only folder that it may write.
        command: the program, by its whole path, and its arguments.
        memory: what it may use, as MemoryMax= takes it.
        reads: files and folders that it must read, such as registered data.
        credential: the file that holds the home's passphrase; root reads it, and hands it to this service alone.
        only_to: addresses or networks; if any are given, the kernel drops packets to and from all others.

    Raises:
        InputError: a field cannot stand in a unit.
    """
    _matches("the user", user, _USER)
    _matches("the memory limit", memory, _MEMORY)
    here = [path.resolve() for path in (home, Path(command[0]), *reads)]
    in_homes = any(path.is_relative_to(folder) for path in here for folder in _HOMES)
    hardening = _template("hardening.conf").substitute(
        # read-only, where something lies there: it may still write its own home, and nothing beside it.
        protect_home="read-only" if in_homes else "yes",
        memory=memory,
        addresses=_addresses(only_to),
    )
    text = _template(name).substitute(
        user=user,
        home=_path(home),
        writes=_word(_path(home)),
        command=" ".join(_quoted(part) for part in command),
        hardening=hardening,
        credential="" if credential is None else f"LoadCredential=fedward-passphrase:{_path(credential)}",
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _template(name: str) -> Template:
    return Template(files("fedward.cli.units").joinpath(name).read_text(encoding="utf-8"))


def _addresses(only_to: Sequence[str]) -> str:
    if not only_to:
        return ""
    try:
        networks = [str(ip_network(one, strict=False)) for one in only_to]
    except ValueError:
        raise InputError(
            "an address cannot be used", expected="IPv4 or IPv6 addresses or networks", got=", ".join(only_to)
        ) from None
    return "\n".join(["IPAddressDeny=any", f"IPAddressAllow=localhost {' '.join(networks)}"])


def _matches(what: str, text: str, form: str) -> None:
    if not re.fullmatch(form, text):
        raise InputError(f"{what} cannot stand in a unit", expected=form, got=text)


def _path(path: Path) -> str:
    """The value of a setting that is one path: it is not taken apart into words, but `%` is a specifier."""
    text = str(path.resolve())
    if not text.isprintable() or ":" in text:
        raise InputError("a path cannot stand in a unit", expected="no colon and no control character", got=text)
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a command line (systemd.service(5)): `%` is a specifier, `$` a variable."""
    if not text.isprintable():
        raise InputError("a path cannot stand in a unit", expected="no control character", got=ascii(text))
    return _word(text.replace("%", "%%").replace("$", "$$"))


def _word(text: str) -> str:
    """One word where a setting takes several (systemd.syntax(7))."""
    if not re.search(r"[\s;'\"\\]", text):
        return text
    return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))
