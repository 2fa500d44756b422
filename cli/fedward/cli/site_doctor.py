"""`fedward site doctor`: what may be wrong with a site, a line a check, each ok or with what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from fedward.client.doctor import Finding

FAILED = 1
_MARKS = {"ok": "ok       ", "warning": "WARNING  ", "failed": "FAILED   ", "unchecked": "not yet  "}


def doctor(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Check this site: clock, TLS, proxy, coordinator, disk, memory, permissions, data, ledger, versions. Nothing is changed.

    Each line says ok or what to do. The exit code is 0 unless a check failed, then 1. It works before the site has joined and
    while its node runs.
    """
    from fedward.client.checkup import examine
    from fedward.client.doctor import verdict
    from fedward.client.home import SiteHome

    opened = SiteHome.open(home)
    found = examine(opened)
    worst = verdict(found)
    if as_json:
        print_json({"site": opened.site, "verdict": worst, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            _say(finding)
        say({"ok": "All is well.", "warning": "Nothing stops this site; see the warnings.",
             "failed": "Something must be put right: see the lines that say FAILED."}[worst])  # fmt: skip
    if worst == "failed":
        raise typer.Exit(FAILED)


def _say(finding: Finding) -> None:
    code = f" [{finding.code}]" if finding.code else ""
    say(f"{_MARKS[finding.state]}{finding.check}: {finding.text}{code}")
    if finding.remedy and finding.state != "ok":
        say(f"         to do: {finding.remedy}")
