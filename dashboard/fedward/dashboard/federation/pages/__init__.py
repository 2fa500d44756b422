"""The pages of a federation: what `layouts` puts on each, on the screen, and what only a screen can do."""

from fedward.dashboard import gatekeeper
from fedward.dashboard.federation.pages.audit import audit
from fedward.dashboard.federation.pages.models import models
from fedward.dashboard.federation.pages.plain import accuracy, fairness, participation, privacy, study

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
