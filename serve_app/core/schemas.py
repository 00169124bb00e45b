"""The HTTP contract, as pydantic models. No behaviour, no limits that a setting can change.

Route by route it is the table of docs/api.md. Requests refuse unknown fields; numbers must be
finite. Responses of the first four routes keep the earlier system's wire format.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

Text = StrictStr
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(ge=1)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**63 - 1)]
Select = Literal["loss"]


def _absent(value: object) -> bool:
    return value is None


class Request(BaseModel):
    """Base of every request body."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PairsRequest(Request):
    """Texts to compare, pair by pair."""

    texts_original: list[Text] = Field(description="The medical originals.")
    texts_generated: list[Text] = Field(description="One summary for each original.")


class TextsRequest(Request):
    """Texts to measure alone."""

    texts: list[Text] = Field(description="The texts.")


class LossRequest(PairsRequest):
    """Pairs to compute the loss of."""

    texts_human: list[Text] | None = Field(
        None,
        description="Human summaries of the same originals; with LOSS_TARGETS=human each is "
        "its sample's target.",
    )
    weights: list[Number] | None = Field(
        None, description="relevance, factuality, fkgl, smog, dale_chall; sum 1; default 0.2 each."
    )


class Sampling(Request):
    """Optional sampling settings of one generation; unset ones come from the server's settings."""

    max_new_tokens: Annotated[StrictInt, Field(ge=1, le=32768)] | None = Field(
        None, description="Longest summary, in tokens; at most MAX_NEW_TOKENS."
    )
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        None, description="0 decodes greedily."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        None, description="Nucleus sampling mass."
    )
    repeat_penalty: Annotated[Number, Field(gt=0, le=10)] | None = Field(
        None, description="1 is none."
    )
    seed: Seed | None = Field(None, description="Repeats an answer, as far as the engine can.")


class GenerateRequest(Sampling):
    """A text to summarise, or several."""

    text: Text | None = Field(None, description="The medical original; this or `texts`.")
    texts: list[Text] | None = Field(None, description="Several originals; this or `text`.")
    stream: StrictBool = Field(
        False, description="Answer with server-sent events; for one `text`, written once."
    )
    n: Count | None = Field(
        None, description="Candidates for each text, at most MAX_CANDIDATES; default 1."
    )
    select: Select | None = Field(
        None, description="`loss`: score the candidates and answer with the best first."
    )
    weights: list[Number] | None = Field(
        None, description="Of the loss that selects; as in `/loss`. Only with `select`."
    )


class EvaluateRequest(Request):
    """As `LossRequest`; without `texts_generated` the generator writes the summaries."""

    texts_original: list[Text] = Field(description="The medical originals.")
    texts_generated: list[Text] | None = Field(
        None, description="One summary for each original; absent: the generator writes them."
    )
    texts_human: list[Text] | None = Field(None, description="As in `/loss`.")
    weights: list[Number] | None = Field(None, description="As in `/loss`.")
    n: Count | None = Field(
        None,
        description="Candidates the generator writes for each original; the one of least loss is "
        "evaluated. At most MAX_CANDIDATES; default 1. Only without `texts_generated`.",
    )
    seed: Seed | None = Field(None, description="Of the generator. Only without `texts_generated`.")
    explain: StrictBool = Field(
        False,
        description="Add `explanation` to each result: where each sentence and the passage that "
        "supports it stand, plain words for terms, the targets' standard deviations.",
    )


class RelevanceResponse(BaseModel):
    """BERTScore F1 of each pair."""

    relevance: list[float]
    model: str
    device: str


class FactualityResponse(BaseModel):
    """AlignScore of each pair, in [0, 1] (raw in the reg modes)."""

    factuality: list[float]
    model: str
    device: str


class ReadabilityResponse(BaseModel):
    """Grade levels (FKGL, SMOG) and the Dale-Chall score of each text."""

    fkgl: list[float]
    smog: list[float]
    dale_chall: list[float]


class Usage(BaseModel):
    """Tokens a generation read and wrote; 0 for engines without tokens."""

    prompt_tokens: int
    completion_tokens: int


class Replaced(BaseModel):
    """A term and the plain words put in its place."""

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
    model: str = Field(description="Which engine or language model wrote it.")
    finish_reason: str = Field(
        description="`stop`; `length` at a limit of tokens or words; `time` at a limit of time."
    )
    truncated: bool = Field(description="Whether only part of the original was considered.")
    usage: Usage
    sentences: list[SummarySentenceOut] = Field(
        description="Each sentence and its source, from an engine that knows it; else empty."
    )


class Scores(BaseModel):
    """What one summary scored: `loss` is the weighted sum of `errors`."""

    loss: float
    metrics: MetricValues
    errors: MetricValues


class CandidateOut(SummaryOut):
    """One of several summaries of the same text.

    `variant` is its number in the order of writing. `scores` is null where nobody asked for
    them, and for a candidate without a word, which has nothing to score.
    """

    variant: int
    scores: Scores | None


class GenerateResponse(SummaryOut):
    """A summary; where several were asked for, the first of `candidates`.

    The last three fields are there only where the request had `n` above 1, or `select`.
    """

    candidates: list[CandidateOut] | None = Field(None, exclude_if=_absent)
    select: Select | None = Field(None, exclude_if=_absent)
    weights: list[float] | None = Field(None, exclude_if=_absent)


class GenerateListResponse(BaseModel):
    """One answer for each of `texts`, in order."""

    results: list[GenerateResponse]


class FactualSentence(BaseModel):
    """A sentence of the summary, its score, and the passage that supports it best."""

    text: str
    score: float
    support: str


class DifficultWordOut(BaseModel):
    """A word outside the Dale-Chall list, at text[start:end] of the summary."""

    word: str
    start: int
    end: int


class Truncation(BaseModel):
    """Whether a model saw only part of a text."""

    relevance_original: bool
    relevance_generated: bool
    factuality: bool


class SpanOut(BaseModel):
    """text[start:end], counted in Unicode code points."""

    start: int
    end: int


class EvidenceOut(BaseModel):
    """Where one of `sentences` stands in the summary, and what supports it in the original.

    `passage` is the chunk that the factuality model found to support it best, `closest` that
    chunk's sentence with the most and rarest words in common (no model decides that; null where
    there is no common word). Null, too, where a text cannot be found again.
    """

    sentence: SpanOut | None
    passage: SpanOut | None
    closest: SpanOut | None


class PlainWordOut(BaseModel):
    """A term at text[start:end] of the summary, and the glossary's plain form of it."""

    term: str
    plain: str
    start: int
    end: int


class ExplanationOut(BaseModel):
    """What `explain` adds: `sentences` in the order of the result's own."""

    sigmas: MetricValues
    sentences: list[EvidenceOut]
    plain_words: list[PlainWordOut]


class EvaluationOut(BaseModel):
    """Everything about one summary.

    `candidates` (best first) is there only where `n` was above 1, `explanation` only where the
    request had `explain`.
    """

    generated: str
    metrics: MetricValues
    targets: MetricValues
    errors: MetricValues
    loss: float
    sentences: list[FactualSentence]
    difficult_words: list[DifficultWordOut]
    truncated: Truncation
    candidates: list[CandidateOut] | None = Field(None, exclude_if=_absent)
    explanation: ExplanationOut | None = Field(None, exclude_if=_absent)


class EvaluateResponse(BaseModel):
    """One result for each original, in order."""

    results: list[EvaluationOut]
    weights: list[float]
    models: dict[str, str]


class ComponentHealth(BaseModel):
    """One deployment: whether it can answer, and what it runs."""

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


class LiveResponse(BaseModel):
    """That the process answers."""

    status: str
    version: str


class ReadyResponse(BaseModel):
    """Whether every deployment can answer, and which cannot."""

    status: str
    waiting: list[str]


class DeploymentStatus(BaseModel):
    """One deployment: what it runs, how many replicas answer and how many there should be."""

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
    """Requests of the last minutes: refused with 4xx, failed with 5xx; times of those answered."""

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
