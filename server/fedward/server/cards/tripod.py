"""Which items of TRIPOD+AI a card covers, and in which of its sections: Collins et al., BMJ 2024;385:e078378, table 2. Pure.

A card is no article: what only authors know, such as ethics, funding and the setting of care, is not in a coordinator's record. An
item is covered where the card alone says what it asks for, partly where it says some of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fedward.server.cards.performance import Performance
from fedward.study.manifest import Manifest

SOURCE: Final = "Collins GS, Moons KGM, Dhiman P, et al. BMJ 2024;385:e078378"
Coverage = Literal["covered", "partly", "not covered"]


@dataclass(frozen=True)
class Item:
    """An item or sub-item.

    Attributes:
        number: as the checklist numbers it; 27 items, some in parts.
        section: of the checklist.
        topic: what it is about, in a few words of ours.
        coverage: by this card.
        where: the card's section, or why it is missing.
    """

    number: str
    section: str
    topic: str
    coverage: Coverage
    where: str

    @property
    def main(self) -> int:
        """The number of the item that it is a part of."""
        return int(self.number.rstrip("abcdefg"))


_AUTHORS: Final = "not in the record: the study's authors know"
_HOSPITALS: Final = "not in the record: the hospitals know"
Row = tuple[str, str, Coverage, str]


def items(manifest: Manifest, found: Performance | None) -> tuple[Item, ...]:
    """All 27 items with their parts, in order."""
    measured = found is not None and found.shown
    parts: dict[str, list[Row]] = {
        "Title and abstract": _head(),
        "Introduction": _introduction(manifest),
        "Methods": [*_data(), *_analysis(manifest)],
        "Open science": _open_science(),
        "Patient and public involvement": [("19", "patient and public involvement", "not covered", _AUTHORS)],
        "Results": _results(manifest, measured=measured),
        "Discussion": _discussion(),
    }
    return tuple(Item(row[0], section, *row[1:]) for section, rows in parts.items() for row in rows)


def _head() -> list[Row]:
    return [
        (
            "1",
            "title: kind of study, target population, outcome",
            "partly",
            "Title, Intended use; no target population",
        ),
        ("2", "abstract", "not covered", "Summary is no structured abstract"),
    ]


def _introduction(manifest: Manifest) -> list[Row]:
    told: Coverage = "partly" if manifest.study.description.strip() else "not covered"
    where = "Intended use, as far as the study describes it" if told == "partly" else "the study has no description"
    return [
        ("3a", "healthcare context, rationale, earlier models", told, where),
        ("3b", "target population, purpose in the care pathway, users", told, where),
        ("3c", "known health inequalities", "not covered", _AUTHORS),
        ("4", "objectives: development or evaluation", "covered", "Intended use"),
    ]


def _data() -> list[Row]:
    return [
        (
            "5a",
            "sources of data and how representative they are",
            "partly",
            "Data and hospitals; not how representative",
        ),
        ("5b", "dates of the patients' data", "not covered", _HOSPITALS),
        ("6a", "setting, number and location of centres", "partly", "Data and hospitals: names and number"),
        ("6b", "eligibility of participants", "not covered", _HOSPITALS),
        ("6c", "treatments", "not covered", _HOSPITALS),
        (
            "7",
            "data preparation and quality checks",
            "partly",
            "Training configuration; each hospital maps its own data",
        ),
        ("8a", "outcome: definition, time horizon, how assessed", "partly", "Intended use: the definition"),
        ("8b", "who assessed the outcome", "not covered", _HOSPITALS),
        ("8c", "blinding of the outcome's assessment", "not covered", _HOSPITALS),
        ("9a", "choice of initial predictors", "not covered", _AUTHORS),
        ("9b", "definition of the predictors, how and when measured", "partly", "Intended use: definitions, not when"),
        ("9c", "who assessed the predictors", "not covered", _HOSPITALS),
        ("10", "sample size", "not covered", "Data and hospitals has the size, and no reason for it"),
    ]


def _analysis(manifest: Manifest) -> list[Row]:
    groups = bool(manifest.fairness.groups)
    return [
        ("11", "missing data", "partly", "Training configuration: how handled, not how many"),
        ("12a", "how the data were used and partitioned", "covered", "Data and hospitals, Training configuration"),
        ("12b", "handling of predictors", "covered", "Intended use: how the model reads them"),
        ("12c", "type of model, building, tuning, internal validation", "partly",
         "Training configuration; not why, nor how settings were found"),
        ("12d", "heterogeneity between clusters", "not covered", "Limits: only sums over hospitals are kept"),
        ("12e", "measures and plots of performance, and why these", "partly",
         "Performance, Calibration, Fairness; no reasons, and none of clinical use"),
        ("12f", "model updating after evaluation", "covered", "Training configuration: none was done"),
        ("12g", "how predictions were calculated", "covered", "Intended use, Digests and signatures"),
        ("13", "class imbalance", "covered", "Training configuration: no method was used"),
        ("14", "approaches to fairness", "covered" if groups else "partly",
         "Fairness: groups are compared, nothing is adjusted" if groups else "Fairness: no groups were named"),
        ("15", "output of the model, thresholds", "covered", "Intended use"),
        ("16", "differences between training and evaluation data", "covered", "Data and hospitals"),
        ("17", "ethical approval", "not covered", _AUTHORS),
    ]  # fmt: skip


def _open_science() -> list[Row]:
    return [
        ("18a", "funding", "not covered", _AUTHORS),
        ("18b", "conflicts of interest", "not covered", _AUTHORS),
        ("18c", "protocol", "covered", "Digests and signatures: the sealed manifest is the protocol"),
        ("18d", "registration", "not covered", _AUTHORS),
        ("18e", "data sharing", "partly", "Data and hospitals: no patient's record leaves a hospital"),
        ("18f", "code sharing", "partly", "Digests and signatures: the program; not the hospitals' mappings"),
    ]


def _results(manifest: Manifest, *, measured: bool) -> list[Row]:
    some: Coverage = "partly" if measured else "not covered"
    none = "nothing that can be shown was measured"
    subgroups = bool(manifest.fairness.groups)
    return [
        ("20a", "flow of participants, with and without the outcome", some,
         "Data and hospitals: held-out patients alone" if measured else none),
        ("20b", "characteristics of participants", some if subgroups else "not covered",
         "Fairness: sizes of groups" if measured and subgroups else "only sums over hospitals are kept"),
        ("20c", "development and evaluation data compared", "not covered", "they are drawn from the same patients"),
        ("21", "participants and outcome events in each analysis", "partly",
         "Data and hospitals: declared for training" + (", counted for evaluation" if measured else "")),
        ("22", "the full model, and what restricts its use", "partly", "Digests and signatures: its file, by digest"),
        ("23a", "performance with intervals, also in subgroups",
         "not covered" if not measured else ("covered" if subgroups else "partly"),
         "Performance, Fairness" if measured else none),
        ("23b", "heterogeneity of performance between clusters", "not covered", "only sums over hospitals are kept"),
        ("24", "results of model updating", "covered", "Training configuration: none was done"),
    ]  # fmt: skip


def _discussion() -> list[Row]:
    return [
        ("25", "interpretation", "not covered", _AUTHORS),
        ("26", "limitations", "partly", "Limits: those that the record tells"),
        ("27a", "poor or missing input data in use", "partly", "Training configuration: missing values"),
        ("27b", "what users must do and know", "not covered", _AUTHORS),
        ("27c", "next steps, applicability and generalisability", "partly", "Limits: external validation"),
    ]
