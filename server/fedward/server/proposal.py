"""From a draft to a sealed study that sites can approve: ask who takes part with how many, seal, offer, listen.

A site's signed standing is the evidence of its approval. A site that does not answer is named, never assumed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError, InputError, RefusalError
from fedward.privacy.signing import Identity, to_text
from fedward.server.heads import witnessed
from fedward.server.records import SiteRow, StudyRow
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study import messages
from fedward.study.evaluation import count_deviation
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.kinds import AnyManifest, AnySealed, parse_sealed, parse_stored
from fedward.study.manifest import MAX_DECLARED_PATIENTS, BaseManifest, RosterEntry, SealedManifest
from fedward.study.messages import Declare, Declared, Offer, Refusal, Reply, Standing
from fedward.study.schedule import fits_plan, least_noise
from fedward.study.secure import check_plan
from fedward.study.sums import answer_terms

DECLARE_S = 30.0
DECLARING_S = 90.0
"""A site calibrates its noise when it declares: seconds of computing, and many on a machine that has other work."""
OFFER_S = 10.0
VALID_DAYS = 180
DECLARED_ERROR = 5
"""Declared patients are rounded to tens: the site may have this many more."""


@dataclass(frozen=True)
class Answer:
    """A site's checked reply, or why there is none."""

    reply: Reply | None
    raw: bytes | None
    reason: str


def exchange(
    transport: Transport,
    clock: Clock,
    requests: Mapping[str, bytes],
    keys: Mapping[str, str],
    limit: float,
    working: float = 0.0,
) -> dict[str, Answer]:
    """Send one request to each site and gather the answers, asking an unreachable site again, for at most `limit` seconds. Sites
    that took the request and are silent may work on it for `working` seconds, where that is longer."""
    answers: dict[str, Answer] = {}
    reasons = dict.fromkeys(requests, "no answer in time")
    again: dict[str, float] = dict.fromkeys(requests, clock.monotonic())
    began = clock.monotonic()
    while len(answers) < len(requests):
        silent = requests.keys() - answers.keys() - again.keys()
        if clock.monotonic() >= began + (max(limit, working) if silent else limit):
            break
        due = {site: requests[site] for site, at in again.items() if clock.monotonic() >= at}
        if due:
            transport.send(due)
            again = {site: at for site, at in again.items() if site not in due}
        for delivery in transport.poll():
            if delivery.site not in requests or delivery.site in answers:
                continue
            if delivery.payload is None:
                reasons[delivery.site] = f"unreachable: {delivery.failure}"
                again[delivery.site] = clock.monotonic() + 1.0
                continue
            answer = _checked(delivery.payload, delivery.site, keys[delivery.site], requests[delivery.site])
            if answer is not None:
                answers[delivery.site] = answer
        clock.sleep(0.05)
    return answers | {site: Answer(None, None, reasons[site]) for site in requests if site not in answers}


def _checked(payload: bytes, site: str, key: str, request: bytes) -> Answer | None:
    try:
        reply, _ = messages.open_reply(payload, key)
    except FedwardError as error:
        return Answer(None, None, f"{error.code}: {error.what}")
    if reply.site != site:
        return Answer(None, None, "wrong-site: the reply names another site")
    if reply.request != digest(request):
        return None  # a late answer to an earlier request
    if isinstance(reply, Refusal):
        return Answer(None, payload, f"refused: {reply.code} (reference {reply.reference} in its log)")
    return Answer(reply, payload, "")


def propose(
    store: Store,
    transport: Transport,
    clock: Clock,
    study: StudyRow,
    identity: Identity,
    federation_id: str,
    report: Callable[[str], None],
) -> AnySealed:
    """Seal a draft with the sites that declare a cohort, and offer it to them.

    Raises:
        RefusalError: fewer sites than the quorum declared a cohort.
    """
    if study.sealed is not None:  # an earlier run sealed it and died: another seal would be another digest
        collect_standings(store, transport, clock, study, identity)
        return parse_sealed(study.sealed)
    manifest = parse_stored(study.manifest)
    invited = [site for site in store.sites() if site.site in study.invited and not site.revoked]
    report(f"asking {', '.join(site.site for site in invited)} for their cohorts")
    roster = _declared(store, transport, clock, study, identity, manifest, invited)
    if len(roster) < manifest.least_sites:
        reasons = "; ".join(f"{row.site}: {row.reason}" for row in store.standings(study.key) if row.state == "absent")
        raise RefusalError(
            "too few sites take part",
            expected=_expected(manifest),
            got=f"{len(roster)} ({reasons})",
            remedy="at the sites named: start the node, register data for this study, or change the policy that refuses it; "
            "then propose again",
            code="too-few-sites",
        )
    now = clock.unix()
    sealed = _seal(manifest, federation_id, identity, tuple(roster), now)
    store.seal(study.key, sealed.canonical, identity.sign("manifest", sealed.canonical), sealed.digest, now)
    report(f"sealed {sealed.digest[:12]} with {', '.join(entry.site for entry in roster)}")
    collect_standings(store, transport, clock, store.study(study.key), identity)
    return sealed


def _seal(
    manifest: AnyManifest, federation_id: str, identity: Identity, roster: tuple[RosterEntry, ...], now: int
) -> AnySealed:
    """
    Raises:
        InputError: no round could do it: a secure sum of the whole roster would not fit the ring.
    """
    common = {
        "federation_id": federation_id,
        "coordinator_key": identity.public,
        "roster": roster,
        "sealed_at": now,
        "expires_at": now + VALID_DAYS * 86_400,
    }
    if isinstance(manifest, Exploration):
        exploration = SealedExploration.model_validate({"manifest": manifest, **common})
        if manifest.privacy.secure_aggregation:
            answer_terms(exploration, len(roster))
        return exploration
    noise = count_deviation(manifest)
    sealed = SealedManifest.model_validate({"manifest": manifest, "count_deviation": noise, **common})
    from fedward.study.models import build, dimension  # noqa: PLC0415 - torch takes a second, and only a proposal needs it

    check_plan(sealed, dimension(build(manifest)))
    return sealed


def _expected(manifest: BaseManifest) -> str:
    quorum, least = manifest.federation.quorum, manifest.least_sites
    return f"at least the quorum of {quorum}" if least == quorum else f"at least {least}, as a secure sum needs"


def _declared(
    store: Store,
    transport: Transport,
    clock: Clock,
    study: StudyRow,
    identity: Identity,
    manifest: AnyManifest,
    invited: list[SiteRow],
) -> list[RosterEntry]:
    least = least_noise(manifest)
    keys = {site.site: site.identity_key for site in invited}
    heads = witnessed(store, identity, keys, clock.unix())
    requests = {
        site: messages.pack(
            Declare(
                study_id=manifest.study.id,
                nonce=secrets.token_hex(32),
                witnessed=heads[site],
            ),
            manifest.canonical,
            identity,
        )
        for site in keys
    }
    roster: list[RosterEntry] = []
    for site, answer in sorted(exchange(transport, clock, requests, keys, DECLARE_S, DECLARING_S).items()):
        reason = answer.reason or _unfit(answer.reply, manifest, least)
        if isinstance(answer.reply, Declared) and not reason:
            roster.append(
                RosterEntry(
                    site=site,
                    identity_key=keys[site],
                    declared_patients=answer.reply.patients,
                    noise_multiplier=answer.reply.noise_multiplier,
                )
            )
        else:
            store.set_standing(study.key, site, "absent", reason, answer.raw, clock.unix())
    return roster


def _unfit(reply: Reply | None, manifest: BaseManifest, least_noise: float) -> str:
    """Why a site cannot take part by what it declared; empty when it can."""
    if not isinstance(reply, Declared) or reply.study_id != manifest.study.id:
        return "no usable answer"
    least = manifest.federation.min_patients
    if reply.patients + DECLARED_ERROR < least:
        return f"too few patients: it declares {reply.patients}, the study asks for at least {least}"
    if reply.patients > MAX_DECLARED_PATIENTS:
        return "it declares more patients than a study takes"
    if not fits_plan(least_noise, reply.noise_multiplier):
        return f"it asks for noise σ = {reply.noise_multiplier:g}, which no step of the study's least, {least_noise:g}, gives"
    return ""


def collect_standings(
    store: Store, transport: Transport, clock: Clock, study: StudyRow, identity: Identity
) -> dict[str, str]:
    """Offer a sealed study to its roster and record what each site says; returns every site's last known state."""
    if study.sealed is None or study.signature is None:
        raise InputError("the study is not sealed")
    sealed = parse_sealed(study.sealed)
    keys = {entry.site: entry.identity_key for entry in sealed.roster}
    online = transport.online()
    heads = witnessed(store, identity, keys, clock.unix())
    requests = {
        site: messages.pack(
            Offer(
                study=sealed.digest,
                nonce=secrets.token_hex(32),
                signature=to_text(study.signature),
                witnessed=heads[site],
            ),
            study.sealed,
            identity,
        )
        for site in keys
        if site in online
    }
    for site, answer in exchange(transport, clock, requests, keys, OFFER_S).items():
        reply = answer.reply
        if isinstance(reply, Standing) and reply.study == sealed.digest:
            store.set_standing(study.key, site, reply.state, "", answer.raw, clock.unix())
        elif answer.raw is not None:
            store.set_standing(study.key, site, "unwilling", answer.reason, answer.raw, clock.unix())
    known = {row.site: row.state for row in store.standings(study.key)}
    return {site: known.get(site, "unknown") for site in keys}
