"""A node's metrics in Prometheus's text form (exposition format 0.0.4). Pure: values in, text out.

Every name, type and label is here. Labels take values of closed lists (codes, versions); no value is of a patient, and none is
broken down by study, column or group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fedward.client.vitals import Signs

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Stock:
    """What is read from the home now and then; None where it could not be read.

    Attributes:
        spent, committed, budget: ε, at the ledger's δ.
        pending: studies that wait for a decision of this hospital's people.
        certificate_s: seconds until the site's certificate expires.
    """

    spent: float | None = None
    committed: float | None = None
    budget: float | None = None
    ledger_entries: int | None = None
    audit_entries: int | None = None
    pending: int | None = None
    disk_free_bytes: int | None = None
    certificate_s: float | None = None


Sample = tuple[Mapping[str, str], float]


def exposition(signs: Signs, stock: Stock, *, version: str, protocol: int, now: float) -> str:
    """The whole text, a metric after the other, each with its help and type."""
    heard = None if signs.heard_at is None else now - signs.heard_at
    left = None if stock.budget is None or stock.committed is None else max(stock.budget - stock.committed, 0.0)
    metrics: list[tuple[str, str, str, Iterable[Sample]]] = [
        ("up", "gauge", "1 while the node's process runs.", _one(1)),
        ("build_info", "gauge", "The wheel's version and the protocol that it speaks.",
         [({"version": version, "protocol": str(protocol)}, 1)]),
        ("start_time_seconds", "gauge", "When the node started, in Unix seconds.", _one(signs.since)),
        ("connected", "gauge", "1 while the coordinator takes this node's polls.", _one(float(signs.connected))),
        ("last_contact_age_seconds", "gauge", "Since the coordinator last answered a poll or heartbeat.", _one(heard)),
        ("request_running_seconds", "gauge", "How long the present request has taken; 0 if there is none.",
         _one(signs.busy_s)),
        ("requests_answered_total", "counter", "Requests that got a reply, refusals among them.", _one(signs.answered)),
        ("requests_refused_total", "counter", "Requests that were refused, by the code that left.",
         [({"code": code}, count) for code, count in sorted(signs.refused.items())]),
        ("rounds_worked_total", "counter", "Rounds trained or evaluated here.", _one(signs.trained)),
        ("incidents_total", "counter", "Lies that this node was told and kept the evidence of.", _one(signs.incidents)),
        ("proposals_pending", "gauge", "Studies that wait for a decision here.", _one(stock.pending)),
        ("epsilon_spent", "gauge", "ε of everything charged to this hospital's ledger.", _one(stock.spent)),
        ("epsilon_committed", "gauge", "ε of everything charged and reserved.", _one(stock.committed)),
        ("epsilon_remaining", "gauge", "Lifetime ε that is neither charged nor reserved.", _one(left)),
        ("epsilon_budget", "gauge", "Lifetime ε of this hospital's patients.", _one(stock.budget)),
        ("ledger_entries", "gauge", "Entries of the privacy ledger.", _one(stock.ledger_entries)),
        ("audit_entries", "gauge", "Entries of the audit log.", _one(stock.audit_entries)),
        ("disk_free_bytes", "gauge", "Free space where the home lies.", _one(stock.disk_free_bytes)),
        ("certificate_days_left", "gauge", "Until the site's certificate expires.",
         _one(None if stock.certificate_s is None else stock.certificate_s / 86_400)),
    ]  # fmt: skip
    return "".join(_metric(f"fedward_{name}", kind, help_, samples) for name, kind, help_, samples in metrics)


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [({}, value)]


def _metric(name: str, kind: str, help_: str, samples: Iterable[Sample]) -> str:
    lines = [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    return f"# HELP {name} {help_}\n# TYPE {name} {kind}\n{''.join(lines)}" if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
