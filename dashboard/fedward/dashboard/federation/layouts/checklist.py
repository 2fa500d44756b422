"""The gates as a checklist: an icon, a word and a colour each, with what was found."""

from __future__ import annotations

from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.views import gates
from fedward.dashboard.sheet import Sheet


def checklist(here: Here, sheet: Sheet) -> None:
    """How each gate stands by the newest model that was evaluated."""
    look = here.look
    made = here.reader.verdicts(look)
    if made is None:
        named = gates.asked(look)
        sheet.empty("Not evaluated yet.")
        if named:
            sheet.listing("The study asks for:", [("", text) for text in named])
        else:
            sheet.say("The study names no gates.")
        return
    for verdict in made:
        sheet.marked(gates.mark(verdict), gates.told(verdict))
    sheet.table("gates", gates.table(made), "gates")
