"""Privacy: what has it cost?"""

from __future__ import annotations

from fedward.dashboard.federation.charts import budget as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.views import privacy as views
from fedward.dashboard.sheet import Sheet


def _costs(here: Here) -> list[views.Cost]:
    return views.costs(here.look, here.reader.tallies(here.look))


def sentence(here: Here) -> str:
    return views.sentence(here.look, _costs(here))


def lay_out(here: Here, sheet: Sheet) -> None:
    look, found = here.look, _costs(here)
    if found:
        most = [(label, max(getattr(one, name) for one in found)) for label, name in _FIGURES]
        sheet.figures(
            [
                (
                    label,
                    f"{value:.2f}",
                    f"{'The hospital where it is most' if here.whole else 'At your hospital'}; δ = {look.manifest.privacy.delta:g}",
                )
                for label, value in most
            ]
        )
        sheet.heading(f"ε of this study at {'each' if here.whole else 'your'} hospital")
        frame = views.table(found)
        sheet.chart(drawn(charts.bars, frame), charts.bars_words(frame), "ε by hospital", frame, "epsilon")
        sheet.note(f"{views.shared(here.reader.tallies(look))} {views.elsewhere(look)}".strip())
    elif look.manifest.privacy.epsilon is not None:
        sheet.empty("The study is not sealed yet: each hospital's noise, and so its ε, is fixed with the seal.")
    sheet.heading("What is promised to patients")
    sheet.listing("", views.promise(look))


_FIGURES = (
    ("ε spent, at most", "spent"),
    ("ε when all rounds are done", "forecast"),
    ("ε promised, at most", "promised"),
)
