"""The HTTP contract as pydantic models, documented in docs/api.md. No limits that settings change.

Requests refuse unknown fields; numbers must be finite. Responses of the first four routes keep the
earlier system's wire format.
"""

from __future__ import annotations

from functools import partial
from operator import is_, not_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from serve_app.core.sampling import MaxNewTokens, RepeatPenalty, Seed, Temperature, TopP

Text = StrictStr
Texts = Annotated[list[Text], Field(fail_fast=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Numbers = Annotated[list[Number], Field(fail_fast=True)]
Count = Annotated[StrictInt, Field(ge=1)]
Select = Literal["loss"]
ProfileName = Literal["cochrane", "public", "patient"]
"""Whom a summary is for: `serve_app.metrics.profiles`."""
TermName = Literal["plainness", "findings"]
"""What the loss of some profiles has beside the five metrics."""
Service = Literal["metrics", "generator"]
"""What one server may offer; each can be deployed alone."""


class Request(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class FromAttributes(BaseModel):
    """Base of the parts of answers that have the names of the library's own results."""

    model_config = ConfigDict(from_attributes=True)


ABSENT = partial(is_, None)
"""Of a field that an answer leaves out where it is None."""


Profile = Annotated[
    ProfileName | None,
    Field(
        description="Whom the summaries are for: `cochrane` (the server's targets, the default), "
        "`public` or `patient`."
    ),
]


class PairsRequest(Request):
    """Texts to compare, pair by pair."""

    texts_original: Texts = Field(description="The medical originals.")
    texts_generated: Texts = Field(description="One summary for each original.")


class TextsRequest(Request):
    """Texts to measure alone."""

    texts: Texts = Field(description="The texts.")


class LossRequest(PairsRequest):
    """Pairs to compute the loss of."""

    texts_human: Texts | None = Field(
        None,
        description="Human summaries of the same originals; with LOSS_TARGETS=human each is its "
        "sample's target.",
    )
    weights: Numbers | None = Field(
        None, description="relevance, factuality, fkgl, smog, dale_chall; sum 1; default 0.2 each."
    )
    profile: Profile = None


class Sampling(Request):
    """Sampling settings of one generation; unset ones come from the server's settings."""

    max_new_tokens: MaxNewTokens | None = Field(
        None, strict=True, description="Longest summary, in tokens; at most MAX_NEW_TOKENS."
    )
    temperature: Temperature | None = Field(None, strict=True, description="0 decodes greedily.")
    top_p: TopP | None = Field(None, strict=True, description="Top-p (nucleus) sampling threshold.")
    repeat_penalty: RepeatPenalty | None = Field(
        None, strict=True, description="Repetition penalty; 1 is none."
    )
    seed: Seed | None = Field(
        None, strict=True, description="Random seed, for reproducible output."
    )


class GenerateRequest(Sampling):
    """A text to summarise, or several."""

    text: Text | None = Field(None, description="The medical original; this or `texts`.")
    texts: Texts | None = Field(None, description="Several originals; this or `text`.")
    stream: StrictBool = Field(
        False, description="Answer with server-sent events; for one `text` without candidates."
    )
    n: Count | None = Field(
        None, description="Candidates for each text, at most MAX_CANDIDATES; default 1."
    )
    select: Select | None = Field(
        None, description="`loss`: score the candidates and answer with the best first."
    )
    weights: Numbers | None = Field(
        None, description="Of the loss that selects; as in `/loss`. Only with `select`."
    )
    profile: Profile = Field(
        None, description="Of the loss that selects; as in `/loss`. Only with `select`."
    )


class EvaluateRequest(Request):
    """As `LossRequest`; without `texts_generated` the generator writes the summaries."""

    texts_original: Texts = Field(description="The medical originals.")
    texts_generated: Texts | None = Field(
        None, description="One summary for each original; absent: the generator writes them."
    )
    texts_human: Texts | None = Field(None, description="As in `/loss`.")
    weights: Numbers | None = Field(None, description="As in `/loss`.")
    profile: Profile = Field(None, description="As in `/loss`.")
    n: Count | None = Field(
        None,
        description="Candidates the generator writes for each original; the one of least loss is "
        "evaluated. At most MAX_CANDIDATES; default 1. Only without `texts_generated`.",
    )
    seed: Seed | None = Field(
        None, strict=True, description="Of the generator. Only without `texts_generated`."
    )
    explain: StrictBool = Field(
        False,
        description="Add `explanation` to each result: positions of each sentence and of the "
        "passage that supports it, plain words for terms, the targets' standard deviations.",
    )
    findings: StrictBool = Field(
        True, description="Whether results have `findings` and `omissions`."
    )


_LANGUAGE = "ISO 639 code; null: undetermined, or LANGUAGE_CHECK=off. The metrics need English."


class RelevanceResponse(BaseModel):
    """BERTScore F1 of each pair."""

    relevance: list[float]
    model: str
    device: str


class FactualityResponse(BaseModel):
    """Factuality of each pair: AlignScore, in [0, 1] (raw in the reg modes), or another checker."""

    factuality: list[float]
    model: str
    device: str


class ReadabilityResponse(BaseModel):
    """Grade levels (FKGL, SMOG) and the Dale-Chall score of each text."""

    fkgl: list[float]
    smog: list[float]
    dale_chall: list[float]
    language: list[str | None] = Field([], description=_LANGUAGE)


class Usage(FromAttributes):
    """Tokens a generation read and wrote; 0 for engines without tokens."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_characters: int = Field(
        0,
        exclude_if=not_,
        description="Length of the model's reasoning, which is no part of the summary; its tokens "
        "are among `completion_tokens`.",
    )


class Replaced(BaseModel):
    """A term and the plain words that replaced it."""

    term: str
    plain: str


class SummarySentenceOut(BaseModel):
    """A sentence of a summary and the sentence of the original it was made from."""

    text: str
    source: str | None
    source_index: int | None
    replacements: list[Replaced]


class MetricValues(BaseModel):
    """One number for each metric."""

    relevance: float
    factuality: float
    fkgl: float
    smog: float
    dale_chall: float


class SummaryOut(BaseModel):
    """A summary."""

    summary: str
    model: str = Field(description="Engine or language model.")
    finish_reason: str = Field(
        description="`stop`; `length` at a limit of tokens or words; `time` at a limit of time."
    )
    truncated: bool = Field(description="Whether only part of the original was considered.")
    usage: Usage
    sentences: list[SummarySentenceOut] = Field(
        description="Each sentence with its source, if the engine knows it; else empty."
    )


class TermOut(FromAttributes):
    """A term of the loss beside the five metrics, and its share of the loss."""

    error: float
    weight: float


Terms = Annotated[
    dict[TermName, TermOut],
    Field(
        exclude_if=not_,
        description="By name; only with a profile that has them. The five metrics then share what "
        "these weights leave of 1.",
    ),
]


class Scores(BaseModel):
    """What one summary scored: `loss` is the weighted sum of `errors`, and of `terms`."""

    loss: float
    metrics: MetricValues
    errors: MetricValues
    terms: Terms = {}


class CandidateOut(SummaryOut):
    """One of several summaries of the same text.

    `variant` is its number in the order of writing. `scores` is null if they were not asked for,
    and for a candidate without a word, which cannot be scored.
    """

    variant: int
    scores: Scores | None


class GenerateResponse(SummaryOut):
    """A summary; of several candidates the first.

    `candidates`, `select` and `weights` are present only if the request had `n` above 1, or
    `select`; `profile` only if it had one.
    """

    candidates: list[CandidateOut] | None = Field(None, exclude_if=ABSENT)
    select: Select | None = Field(None, exclude_if=ABSENT)
    weights: list[float] | None = Field(None, exclude_if=ABSENT)
    profile: ProfileName | None = Field(None, exclude_if=ABSENT)


class GenerateListResponse(BaseModel):
    """One answer for each of `texts`, in order."""

    results: list[GenerateResponse]


class FactualSentence(BaseModel):
    """A sentence of the summary, its score, and the passage that supports it best."""

    text: str
    score: float
    support: str = Field(
        description="That passage; empty behind the first 4 million characters of an answer."
    )
    passage_index: int = Field(0, description="Its place in the result's `passages`.")
    verdict: Literal["supported", "check", "contradicted"] | None = Field(
        None,
        description="By findings and score together; null where findings are left out, or a mode "
        "without `_sp` scores the summary as a whole.",
    )


class SpanOut(FromAttributes):
    """text[start:end], counted in Unicode code points."""

    start: int
    end: int


class DifficultWordOut(SpanOut):
    """A word outside the Dale-Chall list, at text[start:end] of the summary."""

    word: str


class Truncation(BaseModel):
    """Whether a model read only part of a text."""

    relevance_original: bool
    relevance_generated: bool
    factuality: bool


class EvidenceOut(BaseModel):
    """Position of one of `sentences` in the summary, and of its support in the original.

    `passage` is the chunk that supports it best by the factuality model, `closest` the sentence of
    that chunk with the most and rarest words in common (no model decides that; null without a
    common word). Null, too, if a text cannot be found again.
    """

    sentence: SpanOut | None
    passage: SpanOut | None
    closest: SpanOut | None


FindingKind = Literal[
    "number", "direction", "negation", "roles", "certainty", "entity", "unsupported", "explanation"
]


class FindingOut(BaseModel):
    """Something that the summary says otherwise than the original, found by rules (no model)."""

    kind: FindingKind
    severity: Literal["severe", "minor", "note"] = Field(
        description="severe: it misleads a reader; minor: look at it; note: to know."
    )
    message: str = Field(description="What differs, in one sentence for a writer.")
    sentence: SpanOut = Field(description="The sentence of the summary.")
    summary_spans: list[SpanOut] = Field(description="The words concerned, in the summary.")
    source_spans: list[SpanOut] = Field(description="What they differ from, in the original.")


class OmissionOut(BaseModel):
    """A key statement of the original that the summary does not make."""

    topic: Literal["result", "harms", "certainty", "population", "funding"]
    message: str
    source_span: SpanOut = Field(description="Where the original says it.")


class PlainWordOut(SpanOut):
    """A term at text[start:end] of the summary, and its plain form in the glossary."""

    term: str
    plain: str


class ExplanationOut(BaseModel):
    """What `explain` adds; `sentences` as in the result."""

    sigmas: MetricValues
    sentences: list[EvidenceOut]
    plain_words: list[PlainWordOut]


class EvaluationOut(BaseModel):
    """Everything about one summary.

    `candidates` (best first) is present only if `n` was above 1, `explanation` only with `explain`.
    """

    generated: str
    metrics: MetricValues
    targets: MetricValues
    errors: MetricValues
    terms: Terms = {}
    loss: float
    sentences: list[FactualSentence]
    passages: list[str] = Field(
        [], description="Passages of the original that support sentences, each once."
    )
    difficult_words: list[DifficultWordOut]
    truncated: Truncation
    language: str | None = Field(None, description=_LANGUAGE)
    original_language: str | None = Field(None, description=_LANGUAGE)
    findings: list[FindingOut] = Field(
        [], description="In the order of the summary; of more than 100, the severe ones first."
    )
    findings_left_out: int = Field(0, exclude_if=not_, description="Findings beyond those.")
    omissions: list[OmissionOut] = []
    candidates: list[CandidateOut] | None = Field(None, exclude_if=ABSENT)
    explanation: ExplanationOut | None = Field(None, exclude_if=ABSENT)


class EvaluateResponse(BaseModel):
    """One result for each original, in order."""

    results: list[EvaluationOut]
    weights: list[float]
    models: dict[str, str]
    profile: ProfileName | None = Field(
        None, exclude_if=ABSENT, description="Present if the request had one."
    )


class ComponentHealth(FromAttributes):
    """Whether one deployment can answer, and what it runs."""

    ready: bool
    model: str | None = None
    device: str | None = None


class HealthResponse(BaseModel):
    """State of the whole application."""

    status: str
    version: str
    services: list[str]
    components: dict[str, ComponentHealth]
    targets: dict[str, Any] | None
    warnings: list[str]
    relevance: ComponentHealth | None = Field(
        None, exclude_if=ABSENT, description="As in `components`; the earlier system's name."
    )
    factuality: ComponentHealth | None = Field(
        None, exclude_if=ABSENT, description="As in `components`; the earlier system's name."
    )
    readability: ComponentHealth | None = Field(
        None, exclude_if=ABSENT, description="As in `components`; the earlier system's name."
    )


class LiveResponse(BaseModel):
    """The process answers."""

    status: str
    version: str


class ReadyResponse(BaseModel):
    """Whether every deployment can answer, and which are not ready."""

    status: str
    waiting: list[str]
    failures: list[str] = Field(
        [], exclude_if=not_, description="What cannot start, and the class of the error."
    )


class DeploymentStatus(BaseModel):
    """What one deployment runs, and how many replicas answer and should."""

    model: str | None
    device: str | None
    replicas_ready: int
    replicas_wanted: int


class TargetsInUse(BaseModel):
    """The targets: their file and corpus, and a fingerprint of their numbers and models."""

    name: str | None
    corpus: str | None
    n: int | None
    fingerprint: str


class Rates(BaseModel):
    """Recent requests: refused with 4xx, failed with 5xx; times are of those answered."""

    requests: int
    requests_per_s: float
    refused_per_s: float
    failed_per_s: float
    p50_s: float | None
    p99_s: float | None


class StatusResponse(BaseModel):
    """The whole application at a glance; rates are over `window_s` seconds of all gateways."""

    status: str
    version: str
    services: list[str]
    deployments: dict[str, DeploymentStatus]
    targets: TargetsInUse | None
    warnings: list[str]
    gateways_heard: int
    window_s: float
    total: Rates
    routes: dict[str, Rates]
    tokens_per_s: float


class ErrorDetail(BaseModel):
    """What went wrong; `code` is stable, `message` is for people."""

    code: str
    message: str
    field: str | None


class ErrorResponse(BaseModel):
    """The one shape of every error answer."""

    error: ErrorDetail
