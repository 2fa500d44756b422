"""Secure aggregation: the coordinator learns the sum of the cohort's vectors and nothing about any one of them, even if it lies.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, the variant against a
malicious server with the consistency round, on a complete graph of 3 to 200 sites. Keys are set up for a batch of one-time
slots at once, so that a sum costs three exchanges: masked, confirm, unmask.

    contexts      what every message belongs to; the floors that each site enforces itself
    wire          the messages: canonical, of one length each, signed by the roster's keys
    site          a hospital's state machine
    coordinator   the coordinator's state machines: a batch's setup, a slot's sum
    transcript    what an auditor can check afterwards
    ring          reals and counts as ring integers; stochastic rounding; bounds
    masks         AES-256-CTR keystreams
    shamir, commitments, keys, derivations, faults

Nothing here does IO, reads a clock, or knows Flower or torch. Randomness is handed in.
"""

from fedward.privacy.secagg.contexts import Batch, RoundContext, least_threshold
from fedward.privacy.secagg.coordinator import BatchSetup, OpenBatch, SlotSum
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.ring import Block, RingTerms
from fedward.privacy.secagg.site import SiteParty

__all__ = [
    "Batch",
    "BatchSetup",
    "Block",
    "OpenBatch",
    "ProtocolError",
    "RingTerms",
    "RoundContext",
    "SiteParty",
    "SlotSum",
    "least_threshold",
]
