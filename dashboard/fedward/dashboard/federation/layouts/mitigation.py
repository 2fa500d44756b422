"""A section of Fairness: what a threshold for each group would do. It computes, and changes nothing."""

from __future__ import annotations

from fedward.dashboard import words
from fedward.dashboard.federation.charts import dumbbells
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.views import mitigation as views
from fedward.dashboard.sheet import Sheet
from fedward.privacy.errors import FedwardError
from fedward.server import mitigating
from fedward.server.records import Evaluation


def mitigation(here: Here, sheet: Sheet) -> None:
    """Choose an attribute, a bound and a criterion; see what it would cost."""
    sheet.heading("What a threshold for each group would do: an analysis, applied to nothing")
    attributes = {name: name for name in mitigating.compared(here.look.sealed)}
    bounds = {f"{bound:g}": f"gap at most {words.figure(bound)}" for bound in views.BOUNDS}
    criteria = {name: name for name in views.CRITERIA}
    evaluation = here.reader.evaluation(here.look, here.reader.measured(here.look)[0].version)
    for attribute in sheet.choices("Attribute", attributes, "mitigation-attribute"):
        for bound in sheet.choices("Gap at most", bounds, "mitigation-bound", usual=f"{mitigating.BOUND:g}"):
            for criterion in sheet.choices("Criterion", criteria, "mitigation-criterion"):
                _section(here.look, evaluation, sheet, attribute, float(bound), criterion)


def _section(
    look: Look, evaluation: Evaluation | None, sheet: Sheet, attribute: str, bound: float, criterion: str
) -> None:
    try:
        made = mitigating.mitigated(look.sealed, evaluation, attribute, bound, views.CRITERIA[criterion])
    except FedwardError as error:
        sheet.inform(views.refused(error), "help")
        return
    sheet.say(views.sentence(made))
    for measure in views.MEASURES:
        frame, title = views.by_group(made, measure), f"{measure} with a threshold for each group"
        told = dumbbells.dumbbells_words(frame, measure)
        file = f"thresholds-{attribute}-{criterion.replace(' ', '-')}-{measure}"
        sheet.chart(drawn(dumbbells.dumbbells, frame, measure), told, title, frame, file)
    sheet.note(mitigating.limits(made))
