"""The pages of a federation: they only lay out. Each answers one question: a sentence, figures, charts, the tables behind."""

from fedward.dashboard import gatekeeper
from fedward.dashboard.federation.pages.accuracy import accuracy
from fedward.dashboard.federation.pages.audit import audit
from fedward.dashboard.federation.pages.fairness import fairness
from fedward.dashboard.federation.pages.models import models
from fedward.dashboard.federation.pages.participation import participation
from fedward.dashboard.federation.pages.privacy import privacy
from fedward.dashboard.federation.pages.study import study

FEDERATION = tuple(
    (title, name, gatekeeper.kept(name, page))
    for title, name, page in (
        ("Study", "study", study),
        ("Accuracy", "accuracy", accuracy),
        ("Fairness", "fairness", fairness),
        ("Privacy", "privacy", privacy),
        ("Participation", "participation", participation),
        ("Models", "models", models),
        ("Audit", "audit", audit),
    )
)
"""Title, address and page, in the order of the navigation. A page is asked for by a role that has it, or shows nothing."""
