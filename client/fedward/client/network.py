"""The home's own proxy setting, so that a node that a service manager starts has it without an environment.

It may hold the proxy's password, so it is encrypted at rest. It goes before HTTPS_PROXY; `direct` means no proxy at all.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedward.client.home import SiteHome
from fedward.study.fields import Part

FILE = "network.json"


class _Network(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    proxy: Annotated[str, Field(min_length=1, max_length=2000)]


def keep_proxy(home: SiteHome, setting: str) -> None:
    """Keep a proxy's URL or "direct"; nothing (an empty text) forgets it, and the environment decides again.

    Raises:
        InputError: it is no address of a proxy.
    """
    path = home.path / FILE
    if not setting:
        path.unlink(missing_ok=True)
        return
    # Flower's door takes seconds to import, and only this command needs it.
    from fedward.client.flower.proxy import DIRECT, parse_proxy  # noqa: PLC0415

    if setting != DIRECT:
        parse_proxy(setting)
    home.write(path, _Network(proxy=setting).model_dump_json().encode())


def kept_proxy(home: SiteHome) -> str | None:
    """What `keep_proxy` kept; None if nothing. Errors as `SiteHome.read`."""
    path = home.path / FILE
    return home.read_part(path, _Network, "proxy setting").proxy if path.is_file() else None
