from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WhoamiRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SitesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AlarmsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WaitingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Identity(_message.Message):
    __slots__ = ("name", "role", "may", "federation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MAY_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: str
    may: _containers.RepeatedScalarFieldContainer[str]
    federation: str
    def __init__(self, name: _Optional[str] = ..., role: _Optional[str] = ..., may: _Optional[_Iterable[str]] = ..., federation: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "what", "expected", "got", "remedy", "exit_code")
    CODE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    GOT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    what: str
    expected: str
    got: str
    remedy: str
    exit_code: int
    def __init__(self, code: _Optional[str] = ..., what: _Optional[str] = ..., expected: _Optional[str] = ..., got: _Optional[str] = ..., remedy: _Optional[str] = ..., exit_code: _Optional[int] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("site", "identity_key", "state", "expires_at", "reason", "changed_at")
    SITE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    site: str
    identity_key: str
    state: str
    expires_at: int
    reason: str
    changed_at: int
    def __init__(self, site: _Optional[str] = ..., identity_key: _Optional[str] = ..., state: _Optional[str] = ..., expires_at: _Optional[int] = ..., reason: _Optional[str] = ..., changed_at: _Optional[int] = ...) -> None: ...

class SiteList(_message.Message):
    __slots__ = ("sites",)
    SITES_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedCompositeFieldContainer[Membership]
    def __init__(self, sites: _Optional[_Iterable[_Union[Membership, _Mapping]]] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("request", "confirmed", "end_studies")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    END_STUDIES_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    confirmed: bool
    end_studies: bool
    def __init__(self, request: _Optional[bytes] = ..., confirmed: _Optional[bool] = ..., end_studies: _Optional[bool] = ...) -> None: ...

class Enrollment(_message.Message):
    __slots__ = ("kit", "what", "superseded")
    KIT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    kit: bytes
    what: str
    superseded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kit: _Optional[bytes] = ..., what: _Optional[str] = ..., superseded: _Optional[_Iterable[str]] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("site", "reason")
    SITE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    site: str
    reason: str
    def __init__(self, site: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ProposeRequest(_message.Message):
    __slots__ = ("manifest", "sites")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    sites: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, manifest: _Optional[bytes] = ..., sites: _Optional[_Iterable[str]] = ...) -> None: ...

class StudyRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("reference", "recent")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    reference: str
    recent: int
    def __init__(self, reference: _Optional[str] = ..., recent: _Optional[int] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("reference", "wait")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    reference: str
    wait: bool
    def __init__(self, reference: _Optional[str] = ..., wait: _Optional[bool] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("reference", "now")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    reference: str
    now: bool
    def __init__(self, reference: _Optional[str] = ..., now: _Optional[bool] = ...) -> None: ...

class ModelRequest(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("size", "data")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    size: int
    data: bytes
    def __init__(self, size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("site", "state", "reason", "at")
    SITE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    site: str
    state: str
    reason: str
    at: int
    def __init__(self, site: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., at: _Optional[int] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("attempt", "round", "base", "outcome", "reason", "model", "opened_at", "seconds")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OPENED_AT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    round: int
    base: str
    outcome: str
    reason: str
    model: str
    opened_at: int
    seconds: float
    def __init__(self, attempt: _Optional[int] = ..., round: _Optional[int] = ..., base: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., model: _Optional[str] = ..., opened_at: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class SiteStatus(_message.Message):
    __slots__ = ("attempt", "site", "status", "reason", "seconds")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    site: str
    status: str
    reason: str
    seconds: float
    def __init__(self, attempt: _Optional[int] = ..., site: _Optional[str] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("version", "slice", "name", "value", "low", "high", "positives", "negatives")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    POSITIVES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    version: int
    slice: str
    name: str
    value: float
    low: float
    high: float
    positives: int
    negatives: int
    def __init__(self, version: _Optional[int] = ..., slice: _Optional[str] = ..., name: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., positives: _Optional[int] = ..., negatives: _Optional[int] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("label", "value", "low", "high", "reason")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    label: str
    value: float
    low: float
    high: float
    reason: str
    def __init__(self, label: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("name", "kind", "words", "unit", "estimates")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    words: str
    unit: str
    estimates: _containers.RepeatedCompositeFieldContainer[Estimate]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., words: _Optional[str] = ..., unit: _Optional[str] = ..., estimates: _Optional[_Iterable[_Union[Estimate, _Mapping]]] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("round", "attempt", "sites", "at", "until", "choice")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    sites: _containers.RepeatedScalarFieldContainer[str]
    at: int
    until: int
    choice: str
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ..., sites: _Optional[_Iterable[str]] = ..., at: _Optional[int] = ..., until: _Optional[int] = ..., choice: _Optional[str] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("site", "rounds")
    SITE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    site: str
    rounds: int
    def __init__(self, site: _Optional[str] = ..., rounds: _Optional[int] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("key", "study_id", "title", "digest", "state", "reason", "wish", "rounds", "version", "model", "epsilon", "delta", "epsilon_all_others", "meaning", "secure", "standings", "attempts", "statuses", "metrics", "kind", "answers", "answered", "questions", "not_releasable", "code", "contributed")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WISH_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_ALL_OTHERS_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    SECURE_FIELD_NUMBER: _ClassVar[int]
    STANDINGS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    NOT_RELEASABLE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTED_FIELD_NUMBER: _ClassVar[int]
    key: int
    study_id: str
    title: str
    digest: str
    state: str
    reason: str
    wish: str
    rounds: int
    version: int
    model: str
    epsilon: float
    delta: float
    epsilon_all_others: float
    meaning: str
    secure: str
    standings: _containers.RepeatedCompositeFieldContainer[Standing]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    statuses: _containers.RepeatedCompositeFieldContainer[SiteStatus]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    kind: str
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    answered: bool
    questions: _containers.RepeatedCompositeFieldContainer[Question]
    not_releasable: _containers.RepeatedScalarFieldContainer[str]
    code: str
    contributed: _containers.RepeatedCompositeFieldContainer[Contribution]
    def __init__(self, key: _Optional[int] = ..., study_id: _Optional[str] = ..., title: _Optional[str] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., wish: _Optional[str] = ..., rounds: _Optional[int] = ..., version: _Optional[int] = ..., model: _Optional[str] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., epsilon_all_others: _Optional[float] = ..., meaning: _Optional[str] = ..., secure: _Optional[str] = ..., standings: _Optional[_Iterable[_Union[Standing, _Mapping]]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[SiteStatus, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., kind: _Optional[str] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ..., answered: _Optional[bool] = ..., questions: _Optional[_Iterable[_Union[Question, _Mapping]]] = ..., not_releasable: _Optional[_Iterable[str]] = ..., code: _Optional[str] = ..., contributed: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ...) -> None: ...

class StudyHead(_message.Message):
    __slots__ = ("key", "study_id", "title", "digest", "kind", "state", "reason", "wish", "rounds", "version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WISH_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    key: int
    study_id: str
    title: str
    digest: str
    kind: str
    state: str
    reason: str
    wish: str
    rounds: int
    version: int
    def __init__(self, key: _Optional[int] = ..., study_id: _Optional[str] = ..., title: _Optional[str] = ..., digest: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., wish: _Optional[str] = ..., rounds: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class StudyList(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[StudyHead]
    def __init__(self, studies: _Optional[_Iterable[_Union[StudyHead, _Mapping]]] = ...) -> None: ...

class StudyRow(_message.Message):
    __slots__ = ("key", "study_id", "manifest", "invited", "sealed", "signature", "digest", "state", "reason", "wish", "created_at", "changed_at", "code")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    INVITED_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WISH_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    key: int
    study_id: str
    manifest: str
    invited: _containers.RepeatedScalarFieldContainer[str]
    sealed: bytes
    signature: bytes
    digest: str
    state: str
    reason: str
    wish: str
    created_at: int
    changed_at: int
    code: str
    def __init__(self, key: _Optional[int] = ..., study_id: _Optional[str] = ..., manifest: _Optional[str] = ..., invited: _Optional[_Iterable[str]] = ..., sealed: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., wish: _Optional[str] = ..., created_at: _Optional[int] = ..., changed_at: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...

class JournalEntry(_message.Message):
    __slots__ = ("sequence", "at", "kind", "data")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at: int
    kind: str
    data: str
    def __init__(self, sequence: _Optional[int] = ..., at: _Optional[int] = ..., kind: _Optional[str] = ..., data: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("site", "message")
    SITE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    site: str
    message: bytes
    def __init__(self, site: _Optional[str] = ..., message: _Optional[bytes] = ...) -> None: ...

class CalibrationGroup(_message.Message):
    __slots__ = ("low", "high", "score", "patients", "observed", "observed_low", "observed_high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_LOW_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    score: float
    patients: int
    observed: float
    observed_low: float
    observed_high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., score: _Optional[float] = ..., patients: _Optional[int] = ..., observed: _Optional[float] = ..., observed_low: _Optional[float] = ..., observed_high: _Optional[float] = ...) -> None: ...

class VotedFeature(_message.Message):
    __slots__ = ("feature", "shown", "votes", "share", "low", "high")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    feature: str
    shown: str
    votes: int
    share: float
    low: float
    high: float
    def __init__(self, feature: _Optional[str] = ..., shown: _Optional[str] = ..., votes: _Optional[int] = ..., share: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class HospitalInfluence(_message.Message):
    __slots__ = ("version", "sites", "patients", "voters", "of_all", "deviation", "features", "why")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    OF_ALL_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    version: int
    sites: _containers.RepeatedScalarFieldContainer[str]
    patients: int
    voters: int
    of_all: bool
    deviation: float
    features: _containers.RepeatedCompositeFieldContainer[VotedFeature]
    why: str
    def __init__(self, version: _Optional[int] = ..., sites: _Optional[_Iterable[str]] = ..., patients: _Optional[int] = ..., voters: _Optional[int] = ..., of_all: _Optional[bool] = ..., deviation: _Optional[float] = ..., features: _Optional[_Iterable[_Union[VotedFeature, _Mapping]]] = ..., why: _Optional[str] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("study", "view", "journal", "alarms", "evidence", "shared", "calibration", "votes")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    study: StudyRow
    view: Study
    journal: _containers.RepeatedCompositeFieldContainer[JournalEntry]
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    shared: _containers.RepeatedCompositeFieldContainer[SharedMetrics]
    calibration: _containers.RepeatedCompositeFieldContainer[CalibrationGroup]
    votes: HospitalInfluence
    def __init__(self, study: _Optional[_Union[StudyRow, _Mapping]] = ..., view: _Optional[_Union[Study, _Mapping]] = ..., journal: _Optional[_Iterable[_Union[JournalEntry, _Mapping]]] = ..., alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ..., shared: _Optional[_Iterable[_Union[SharedMetrics, _Mapping]]] = ..., calibration: _Optional[_Iterable[_Union[CalibrationGroup, _Mapping]]] = ..., votes: _Optional[_Union[HospitalInfluence, _Mapping]] = ...) -> None: ...

class Alarm(_message.Message):
    __slots__ = ("site", "what", "at")
    SITE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    site: str
    what: str
    at: int
    def __init__(self, site: _Optional[str] = ..., what: _Optional[str] = ..., at: _Optional[int] = ...) -> None: ...

class AlarmList(_message.Message):
    __slots__ = ("alarms",)
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    def __init__(self, alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ...) -> None: ...

class Waits(_message.Message):
    __slots__ = ("reference", "action", "target", "about", "by", "at", "expires_at", "override")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    action: str
    target: str
    about: str
    by: str
    at: int
    expires_at: int
    override: bytes
    def __init__(self, reference: _Optional[str] = ..., action: _Optional[str] = ..., target: _Optional[str] = ..., about: _Optional[str] = ..., by: _Optional[str] = ..., at: _Optional[int] = ..., expires_at: _Optional[int] = ..., override: _Optional[bytes] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("gate", "side", "limit", "holds", "value", "low", "high", "of", "why")
    GATE_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    gate: str
    side: str
    limit: float
    holds: bool
    value: float
    low: float
    high: float
    of: str
    why: str
    def __init__(self, gate: _Optional[str] = ..., side: _Optional[str] = ..., limit: _Optional[float] = ..., holds: _Optional[bool] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., of: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Judgement(_message.Message):
    __slots__ = ("study_id", "ended", "verdicts", "waiting")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    ended: bool
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    waiting: Waits
    def __init__(self, study_id: _Optional[str] = ..., ended: _Optional[bool] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., waiting: _Optional[_Union[Waits, _Mapping]] = ...) -> None: ...

class MitigationRequest(_message.Message):
    __slots__ = ("reference", "attribute", "bound", "criterion")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    CRITERION_FIELD_NUMBER: _ClassVar[int]
    reference: str
    attribute: str
    bound: float
    criterion: str
    def __init__(self, reference: _Optional[str] = ..., attribute: _Optional[str] = ..., bound: _Optional[float] = ..., criterion: _Optional[str] = ...) -> None: ...

class GroupPoint(_message.Message):
    __slots__ = ("group", "threshold", "sensitivity", "specificity")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    SPECIFICITY_FIELD_NUMBER: _ClassVar[int]
    group: str
    threshold: float
    sensitivity: float
    specificity: float
    def __init__(self, group: _Optional[str] = ..., threshold: _Optional[float] = ..., sensitivity: _Optional[float] = ..., specificity: _Optional[float] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("equal_opportunity_gap", "equalized_odds_gap", "balanced_accuracy", "groups")
    EQUAL_OPPORTUNITY_GAP_FIELD_NUMBER: _ClassVar[int]
    EQUALIZED_ODDS_GAP_FIELD_NUMBER: _ClassVar[int]
    BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    equal_opportunity_gap: float
    equalized_odds_gap: float
    balanced_accuracy: float
    groups: _containers.RepeatedCompositeFieldContainer[GroupPoint]
    def __init__(self, equal_opportunity_gap: _Optional[float] = ..., equalized_odds_gap: _Optional[float] = ..., balanced_accuracy: _Optional[float] = ..., groups: _Optional[_Iterable[_Union[GroupPoint, _Mapping]]] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("group", "why")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    group: str
    why: str
    def __init__(self, group: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Mitigated(_message.Message):
    __slots__ = ("study_id", "version", "sites", "attribute", "attributes", "threshold", "deviation", "choices", "left_out", "criterion", "bound", "before", "after")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    CRITERION_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    version: int
    sites: int
    attribute: str
    attributes: _containers.RepeatedScalarFieldContainer[str]
    threshold: float
    deviation: float
    choices: _containers.RepeatedScalarFieldContainer[int]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    criterion: str
    bound: float
    before: Choice
    after: Choice
    def __init__(self, study_id: _Optional[str] = ..., version: _Optional[int] = ..., sites: _Optional[int] = ..., attribute: _Optional[str] = ..., attributes: _Optional[_Iterable[str]] = ..., threshold: _Optional[float] = ..., deviation: _Optional[float] = ..., choices: _Optional[_Iterable[int]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ..., criterion: _Optional[str] = ..., bound: _Optional[float] = ..., before: _Optional[_Union[Choice, _Mapping]] = ..., after: _Optional[_Union[Choice, _Mapping]] = ...) -> None: ...

class ShareRequest(_message.Message):
    __slots__ = ("reference", "file")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    file: bytes
    def __init__(self, reference: _Optional[str] = ..., file: _Optional[bytes] = ...) -> None: ...

class SharedMetrics(_message.Message):
    __slots__ = ("site", "version", "auroc", "alone", "figures", "signature", "at")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: int
    auroc: float
    alone: float
    figures: bytes
    signature: str
    at: int
    def __init__(self, site: _Optional[str] = ..., version: _Optional[int] = ..., auroc: _Optional[float] = ..., alone: _Optional[float] = ..., figures: _Optional[bytes] = ..., signature: _Optional[str] = ..., at: _Optional[int] = ...) -> None: ...

class OverrideRequest(_message.Message):
    __slots__ = ("reference", "reason")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reference: str
    reason: str
    def __init__(self, reference: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class OverrideText(_message.Message):
    __slots__ = ("override",)
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    override: bytes
    def __init__(self, override: _Optional[bytes] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("reference", "reason", "signed")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    reference: str
    reason: str
    signed: bytes
    def __init__(self, reference: _Optional[str] = ..., reason: _Optional[str] = ..., signed: _Optional[bytes] = ...) -> None: ...

class ReleaseRow(_message.Message):
    __slots__ = ("study_id", "number", "study", "model", "version", "statement", "signature", "released_at", "by", "withdrawn_at", "withdrawn_by", "withdrawn_why")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RELEASED_AT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_AT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_BY_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_WHY_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    number: int
    study: int
    model: str
    version: int
    statement: bytes
    signature: str
    released_at: int
    by: str
    withdrawn_at: int
    withdrawn_by: str
    withdrawn_why: str
    def __init__(self, study_id: _Optional[str] = ..., number: _Optional[int] = ..., study: _Optional[int] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., statement: _Optional[bytes] = ..., signature: _Optional[str] = ..., released_at: _Optional[int] = ..., by: _Optional[str] = ..., withdrawn_at: _Optional[int] = ..., withdrawn_by: _Optional[str] = ..., withdrawn_why: _Optional[str] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("study_id", "reason")
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    reason: str
    def __init__(self, study_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RolledBack(_message.Message):
    __slots__ = ("ended", "current")
    ENDED_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    ended: ReleaseRow
    current: ReleaseRow
    def __init__(self, ended: _Optional[_Union[ReleaseRow, _Mapping]] = ..., current: _Optional[_Union[ReleaseRow, _Mapping]] = ...) -> None: ...

class ReleasesRequest(_message.Message):
    __slots__ = ("study_id",)
    STUDY_ID_FIELD_NUMBER: _ClassVar[int]
    study_id: str
    def __init__(self, study_id: _Optional[str] = ...) -> None: ...

class ReleaseList(_message.Message):
    __slots__ = ("releases",)
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[ReleaseRow]
    def __init__(self, releases: _Optional[_Iterable[_Union[ReleaseRow, _Mapping]]] = ...) -> None: ...

class WaitingList(_message.Message):
    __slots__ = ("waiting",)
    WAITING_FIELD_NUMBER: _ClassVar[int]
    waiting: _containers.RepeatedCompositeFieldContainer[Waits]
    def __init__(self, waiting: _Optional[_Iterable[_Union[Waits, _Mapping]]] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class TwoPersonPolicy(_message.Message):
    __slots__ = ("two_persons", "hours")
    TWO_PERSONS_FIELD_NUMBER: _ClassVar[int]
    HOURS_FIELD_NUMBER: _ClassVar[int]
    two_persons: _containers.RepeatedScalarFieldContainer[str]
    hours: int
    def __init__(self, two_persons: _Optional[_Iterable[str]] = ..., hours: _Optional[int] = ...) -> None: ...

class ClearAlarmRequest(_message.Message):
    __slots__ = ("site", "reason", "by")
    SITE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    site: str
    reason: str
    by: str
    def __init__(self, site: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...
