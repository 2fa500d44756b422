"""Every code with which a site may refuse, and what it tells the coordinator. The list is closed, on both sides.

A refusal leaves a hospital as one of these codes, a random reference and, where a message was false, whose it was. A text
never leaves, so a code must never be made from data: each is a constant of the source, and stands here before a site can
send it. What a node raises under any other code leaves as `internal-error`; a coordinator refuses a reply with any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

INTERNAL_ERROR: Final = "internal-error"

_REQUESTS: Final = {
    "malformed": "the bytes are no message, or not of the form that the study's terms give",
    "version-mismatch": "the request speaks another version of the protocol than the site's wheel understands",
    "bad-input": "a file, setting or message is not what it must be; the site's log says which",
    "bad-signature": "a signature does not hold: of the request, the proposal, the approval or another site's message",
    "integrity": "a digest or a kept file does not hold; the site's log says which",
    "wrong-base": "the base model is not the one that the request names",
    "wrong-shape": "the parameters or counts do not fit the study's model",
    "not-finite": "a number is not finite",
    "out-of-bounds": "a number is beyond the bound that the study sets",
    "unknown-round": "the study has no such round",
    "unplanned-work": "the study plans no such work in this round",
    "not-masked": "the study is under secure aggregation, and the request asks for an update that is not masked",
    "not-secure": "the study does not use secure aggregation",
}
_DECISIONS: Final = {
    "not-approved": "nobody at the site has approved the study",
    "refused-here": "a person at the site refused the study",
    "revoked-here": "a person at the site revoked the approval of the study",
    "withdrawn": "the site has withdrawn its data from the study, for good",
    "superseded": "a newer version of the study was approved at the site",
    "approval-expired": "the site's approval of the study has run out",
    "paused": "a person at the site paused its node",
    "bad-approval": "the approval kept at the site does not hold",
    "decisions-rolled-back": "the site's record of its decisions is an older one; it trains nothing until a person puts it right",
    "expired": "the study has expired",
    "foreign-study": "the proposed study belongs to another federation",
    "foreign-key": "the proposed study names another key for the site",
    "refused": "the site refuses; its log says why",
    "restored-since": "the site was restored from a backup, and takes no part any more in what this study does without noise",
    "simulated-only": "the study trains by an algorithm that no node runs, only the simulator",
    "policy-requires-dp": "the site's policy refuses studies without differential privacy",
    "policy-requires-secure-aggregation": "the site's policy refuses studies whose coordinator sees its own update",
    "policy-evaluation-noise": "the site's policy refuses studies whose counts of held-out patients carry no noise",
    "policy-count-noise": "the counts' noise is less than the study's own ε asks for",
    "policy-epsilon": "the study's ε is above what the site's policy allows",
    "policy-epsilon-all-others": "the study's ε against all others colluding is above what the site's policy allows",
    "policy-delta": "the study's δ is above what the site's policy allows",
    "policy-patients": "the site has fewer patients than its policy or the study requires",
    "policy-quorum": "the study's quorum is below what the site's policy requires",
    "policy-explore": "the site's policy answers no explorations",
    "policy-explore-epsilon": "the exploration's ε is above what the site's policy allows",
    "policy-explore-column": "the exploration touches a column that the site's policy denies",
    "policy-rounds": "the study has more rounds than the site's policy allows",
    "policy-model": "the study's model is not among those that the site's policy allows",
    "policy-algorithm": "the study's algorithm is not among those that the site's policy allows",
    "policy-column": "the study uses a column that the site's policy denies to every study",
    "policy-cohort-size": "the site's policy does not share the cohort's size",
    "policy-metrics": "the site's policy does not share metrics of its own",
}
_DATA: Final = {
    "not-eligible": "the site does not meet what the study demands of a hospital's patients",
    "no-data": "no data is registered at the site for this study",
    "data-changed": "the site's data is not the data that was registered, or that was registered when the study was approved",
    "exclusions-rolled-back": "the site's exclusion list is gone or an older one; it reads no data until a person puts it right",
    "data-refused": "the site's data does not fit the study",
    "no-batch": "the site has too few patients for a batch of this study",
    "noise-is-shared": "the study's noise is shared, and an update of the site's own would have too little",
    "no-closed-form": "the model has no closed form at the site",
    "in-place-model": "the model changes its layers' outputs in place, so that no patient's gradient can be taken",
    "training-diverged": "training at the site did not stay finite",
    "no-metrics": "the site has no metrics of its own for this study",
}
_BUDGET: Final = {
    "budget-exhausted": "the site's privacy budget does not allow it",
    "budget-unreachable": "no noise in reach keeps the study within the site's privacy budget",
    "period-exhausted": "the site's privacy budget for this period does not allow it",
    "already-reserved": "the site has reserved privacy budget for this study before",
    "not-reserved": "the site has reserved no privacy budget for this study",
    "reservation-expired": "the site's reservation for this study has expired",
    "reservation-used-up": "the site's reservation for this study is used up",
    "already-charged": "this attempt has been charged at the site already",
    "attempts-used-up": "the study's planned attempts are used up at the site",
    "evaluations-used-up": "the study's planned evaluations are used up at the site",
    "charge-unconfirmed": "the site cannot tell whether its privacy ledger kept the charge; it counts as spent",
    "ledger-broken": "the site's privacy ledger is damaged; it trains nothing until a person recovers it",
    "ledger-rolled-back": "the site's privacy ledger is an older one; it trains nothing until a person recovers it",
    "ledger-unreachable": "the site's privacy ledger cannot be used now",
}
_SECAGG: Final = {
    "secagg": "a message of secure aggregation is refused; the site's log says why",
    "unknown-batch": "the site has no place in this batch: it was restarted, or another batch was opened since",
    "cohort-foreign": "the cohort is not made of the roster's sites, each once, in roster order",
    "cohort-size": "the cohort is too small or too large for a secure sum",
    "cohort-doubles": "the cohort names a site or a key twice",
    "threshold-too-low": "the threshold would not withstand the colluders that the study promises",
    "not-a-member": "a site is not in the cohort",
    "ring-overflow": "the sum could wrap in the study's ring",
    "weak-key": "a public key is of small order",
    "key-substituted": "a message is not signed by the key that the roster names",
    "wrong-sender": "a message names another sender than the one that it came from",
    "adverts-unequal": "a site dealt for other keys than these",
    "roots-changed": "a dealer's signed roots are not the ones that it sent before",
    "root-mismatch": "a share does not belong to its dealer's root",
    "box-changed": "a box is not the one that its dealer signed",
    "box-invalid": "a box cannot be opened",
    "false-share": "a share does not fit its dealer's commitment",
    "false-dealer": "a dealer's shares do not make its secret",
    "setup-mismatch": "the sites' views of the batch's setup differ",
    "setup-incomplete": "the batch's setup is not complete",
    "out-of-order": "the step comes before or after its turn",
    "replayed": "a message belongs to another study, batch, slot or attempt",
    "attempt-replayed": "the attempt is not later than those that the site has seen",
    "slot-used": "the slot is used up",
    "repeated": "the step was taken before, with other bytes",
    "base-mismatch": "the sites were sent different base models",
    "terms-mismatch": "the sites were sent different terms",
    "vector-damaged": "a masked vector is not the one that its site signed",
    "survivors-unequal": "the survivors are not the ones that were named before",
    "second-survivor-set": "the site was shown another survivor set of this slot before",
    "survivors-too-few": "the survivors are fewer than the threshold or the quorum",
    "survivors-not-in-cohort": "a survivor set names sites that are not in the cohort",
    "not-a-survivor": "the site is not among the survivors",
    "signers-not-distinct": "the confirmations are not by distinct survivors in cohort order",
    "confirmations-too-few": "too few survivors confirmed the set",
    "second-unmask": "the slot was opened before for another set of sites",
    "sum-out-of-bounds": "the sum is beyond what its sites could honestly make",
    "differencing": "the sum, beside one that was opened before, would show fewer sites than the quorum",
}
_NODE: Final = {
    INTERNAL_ERROR: "something went wrong inside the site's node; the reference finds it in the site's own log",
    "unreachable": "something that the node needs cannot be reached or used now; the site's log says what",
    "disk": "the site cannot write to its disk",
    "audit-unwritable": "the site's audit log cannot be written; the site does nothing that would go unlogged",
    "audit-changed": "the site's audit log does not hold; it does nothing until a person has looked into it",
    "audit-reordered": "the site's audit log is out of order; it does nothing until a person has looked into it",
    "audit-truncated": "the site's audit log is cut short; it does nothing until a person has looked into it",
    "audit-forked": "the site's audit log is not the one that it was; it does nothing until a person has looked into it",
    "split-view": "the coordinator's audit log does not continue the one that the site was shown before",
    "damaged": "a file of the site's home is damaged or was replaced; the site's log says which",
    "certificate-expired": "the site's certificate has expired",
}

CODES: Final[Mapping[str, str]] = MappingProxyType(_REQUESTS | _DECISIONS | _DATA | _BUDGET | _SECAGG | _NODE)
"""Code → what it means, in words for the coordinator."""


def leaving(code: object) -> str:
    """The code under which an error leaves a site: its own if it is on the list, else `internal-error`."""
    return code if isinstance(code, str) and code in CODES else INTERNAL_ERROR


def known(code: str) -> str:
    """The code, for a parser.

    Raises:
        ValueError: it is not on the list.
    """
    if code not in CODES:
        raise ValueError("no code of this list")
    return code
