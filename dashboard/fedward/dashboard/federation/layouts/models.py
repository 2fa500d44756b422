"""Models: which model may be used?"""

from __future__ import annotations

from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.layouts.checklist import checklist
from fedward.dashboard.federation.views import models as views
from fedward.dashboard.sheet import Sheet
from fedward.server.verdicts import failing


def sentence(here: Here) -> str:
    made = here.reader.verdicts(here.look)
    return views.sentence(here.look, here.reader.releases(here.look.study.study_id), made, failing(made or ()))


def lay_out(here: Here, sheet: Sheet) -> None:
    if not here.look.trains:
        return
    found = here.reader.releases(here.look.study.study_id)
    sheet.heading("Releases")
    if found:
        sheet.table("releases", views.table(found), "releases", open_=True)
    else:
        sheet.inform(
            "No release yet: a model becomes one when its study's gates hold and a person releases it.", "inventory_2"
        )
    sheet.table("the newest model", views.newest(here.look), "model", open_=True)
    if here.whole:
        made = views.cards(here.reader.history(here.look), here.reader.verdicts(here.look), found)
        for name, data in made.items():
            sheet.download(f"Model card ({name})", data, name)
    else:
        sheet.note(
            "The model card names every hospital with its part, and is for coordinators and auditors: ask them for it."
        )
    sheet.heading("The gates of the newest model")
    checklist(here, sheet)
