"""The pages of a federation: they only lay out. Each answers one question: a sentence, figures, charts, the tables behind."""

from fedward.dashboard.federation.pages.study import study

FEDERATION = (("Study", "study", study),)
"""Title, address and page, in the order of the navigation."""
