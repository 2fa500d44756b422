"""`fedward coordinator migrate`: the coordinator's store, wherever it lies."""

from __future__ import annotations

from fedward.cli.coordinator_home import DEFAULT_HOME, Home
from fedward.cli.output import JsonOption, print_json, say


def migrate(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Bring the coordinator's store up to the format of this version, in one transaction. Stop the service first.

    A SQLite store stays beside it as it was, as store.sqlite.format-N; of a PostgreSQL database make a backup before.
    """
    from fedward.server.home import CoordinatorHome
    from fedward.server.migrations import migrate as bring_up
    from fedward.server.tables import FORMAT

    opened = CoordinatorHome.open(home)
    found = bring_up(opened)
    if as_json:
        print_json({"home": str(home), "store": str(opened.store_place), "from": found, "to": FORMAT})
        return
    if found is None:
        say(f"There is no store yet: it is made when it is first used ({opened.store_place}).")
    elif found == FORMAT:
        say(f"The store is up to date: format {FORMAT} ({opened.store_place}).")
    else:
        say(f"The store was of format {found} and is of format {FORMAT} now ({opened.store_place}).")
        if opened.settings.store is None:
            say(f"It lies as it was in {opened.store_file}.format-{found}: remove it when all is well.")
        if found < 2:
            say(
                "Enroll every hospital again, with the request and keys that it has: fedward coordinator enroll REQUEST"
            )
