"""The pages of a federation: they only lay out. Each answers one question: a sentence, figures, charts, the tables behind."""

from fedward.dashboard.federation.pages.accuracy import accuracy
from fedward.dashboard.federation.pages.fairness import fairness
from fedward.dashboard.federation.pages.study import study

FEDERATION = (
    ("Study", "study", study),
    ("Accuracy", "accuracy", accuracy),
    ("Fairness", "fairness", fairness),
)
"""Title, address and page, in the order of the navigation."""
