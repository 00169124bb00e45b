"""The MCP server of `plainmed mcp`: five tools over a `Desk`, and targets and pages as resources.

Knows MCP and what an agent wants to read: quotations in the place of positions. Knows no model and
no server of PlainMed. The SDK is imported when a server is made, as it is an extra.

Source: https://modelcontextprotocol.io
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, cast

from pydantic import BaseModel, Field

from serve_app import __version__, evidence
from serve_app.agents.desk import Desk
from serve_app.core.errors import ConfigError, PlainMedError
from serve_app.core.resources import RESOURCES
from serve_app.core.sampling import MaxNewTokens, SamplingOptions, Seed, Temperature
from serve_app.core.schemas import EvaluateResponse, MetricValues, ProfileName, Replaced, Truncation
from serve_app.text.glossary import Glossary
from serve_app.text.sentences import sentence_spans
from serve_app.text.validation import require_text

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

P = ParamSpec("P")
T = TypeVar("T")

INSTRUCTIONS = (
    "PlainMed scores and writes plain-language summaries of medical text, in English. To review a "
    "summary, call check first (rules, at once), then score or explain. A severe finding would "
    "mislead a reader. Lower loss is nearer to what human writers achieve; it is no proof that a "
    "summary is true."
)
TARGETS_URI = "plainmed://targets"
DOCS_URI = "plainmed://docs/"

Original = Annotated[str, Field(description="The medical original, such as an abstract.")]
SummaryText = Annotated[str, Field(description="Its plain-language summary.")]
Weights = Annotated[
    list[float] | None,
    Field(description="Of relevance, factuality, fkgl, smog, dale_chall; sum 1; default equal."),
]
Reader = Annotated[
    ProfileName | None,
    Field(description="Whom the summary is for; default cochrane: like human writers' summaries."),
]


class Score(BaseModel):
    """Five metrics and the loss of one summary."""

    loss: float = Field(description="From 0 to 1; 0: like the summaries of human writers.")
    metrics: MetricValues
    targets: MetricValues = Field(description="What the summaries of human writers have.")
    errors: MetricValues = Field(description="What each metric adds to the loss, before weights.")
    weights: list[float]
    profile: ProfileName | None = Field(description="Whom the loss was for; null: cochrane.")
    models: dict[str, str]
    truncated: Truncation
    warnings: list[str] = Field(description="Such as targets made with other models.")


class Found(BaseModel):
    """Something that the summary says otherwise than the original."""

    kind: str
    severity: str = Field(description="severe: it misleads; minor: look at it; note: to know.")
    message: str
    summary: str = Field(description="The sentence of the summary.")
    original: list[str] = Field(description="The sentences of the original it differs from.")


class LeftOut(BaseModel):
    """A key statement of the original that the summary does not make."""

    topic: str
    message: str
    original: str


class Checked(BaseModel):
    """What the rules found."""

    severe: int = Field(description="How many findings would mislead a reader.")
    findings: list[Found]
    omissions: list[LeftOut]


class Sentence(BaseModel):
    """A sentence of the summary and what supports it."""

    text: str
    factuality: float = Field(description="From 0 to 1, by a model.")
    verdict: str | None = Field(description="supported, check or contradicted.")
    closest: str | None = Field(description="The sentence of the original with most of its words.")


class Explained(Score):
    """A score, and where it comes from."""

    sentences: list[Sentence]
    findings: list[Found]
    omissions: list[LeftOut]
    difficult_words: list[str] = Field(description="Words that readability counts as hard.")
    plain_words: list[Replaced] = Field(description="Terms, and plain words for them.")


class Source(BaseModel):
    """A sentence of a written summary and the one it was made from, where the engine knows it."""

    text: str
    original: str | None


class Written(BaseModel):
    """A summary written by the engine."""

    summary: str
    model: str
    finish_reason: str
    truncated: bool = Field(description="Whether part of the original was not read.")
    sentences: list[Source]


class PlainText(BaseModel):
    """A text with plain words in the place of medical terms."""

    text: str
    replaced: list[Replaced]


class Tools:
    """The tools; the docstrings are what an agent reads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._glossary = Glossary.load()

    def score(
        self,
        original: Original,
        summary: SummaryText,
        weights: Weights = None,
        profile: Reader = None,
    ) -> Score:
        """Scores a plain-language summary: relevance, factuality, three grade levels, the loss."""
        _require(original, summary)
        answer = self._desk.evaluate([original], [summary], weights, profile=profile)
        return Score(**self._score_fields(answer))

    def check(self, original: Original, summary: SummaryText) -> Checked:
        """Finds what a summary says otherwise than its original (numbers, directions, negations,
        sides of a comparison, certainty, names) and what it leaves out. Rules, no model."""
        _require(original, summary)
        found = evidence.check(original, summary)
        quote = _Quotes(original, summary)
        return Checked(
            severe=found.severe,
            findings=[
                quote.found(one, one.sentence_span, one.source_spans) for one in found.findings
            ],
            omissions=[quote.left_out(one, *one.source_span) for one in found.omissions],
        )

    def explain(
        self,
        original: Original,
        summary: SummaryText,
        weights: Weights = None,
        profile: Reader = None,
    ) -> Explained:
        """Scores a summary and says why: each sentence with its factuality, verdict and closest
        sentence of the original, findings, omissions, hard words and plain words for them."""
        _require(original, summary)
        answer = self._desk.evaluate(
            [original], [summary], weights, profile=profile, explain=True, findings=True
        )
        (result,) = answer.results
        if result.explanation is None:
            raise PlainMedError("the server sent no explanation; it may be another version")
        quote = _Quotes(original, summary)
        return Explained(
            **self._score_fields(answer),
            sentences=[
                Sentence(
                    text=one.text,
                    factuality=one.score,
                    verdict=one.verdict,
                    closest=None
                    if place.closest is None
                    else quote.original(place.closest.start, place.closest.end),
                )
                for one, place in zip(result.sentences, result.explanation.sentences, strict=True)
            ],
            findings=[
                quote.found(
                    one,
                    (one.sentence.start, one.sentence.end),
                    [(span.start, span.end) for span in one.source_spans],
                )
                for one in result.findings
            ],
            omissions=[
                quote.left_out(one, one.source_span.start, one.source_span.end)
                for one in result.omissions
            ],
            difficult_words=sorted({one.word for one in result.difficult_words}),
            plain_words=[
                Replaced(term=one.term, plain=one.plain) for one in result.explanation.plain_words
            ],
        )

    def generate(
        self,
        text: Original,
        max_new_tokens: Annotated[
            MaxNewTokens | None, Field(description="Longest summary, in tokens.")
        ] = None,
        temperature: Annotated[Temperature | None, Field(description="0 decodes greedily.")] = None,
        seed: Annotated[Seed | None, Field(description="For reproducible output.")] = None,
    ) -> Written:
        """Writes a plain-language summary of a medical text; check it before you use it."""
        require_text(text, "text")
        given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        sampling = {name: value for name, value in given.items() if value is not None}
        answer = self._desk.generate(text, cast(SamplingOptions, sampling))
        return Written(
            summary=answer.summary,
            model=answer.model,
            finish_reason=answer.finish_reason,
            truncated=answer.truncated,
            sentences=[Source(text=one.text, original=one.source) for one in answer.sentences],
        )

    def glossary(
        self, text: Annotated[str, Field(description="A term, a sentence or a whole text.")]
    ) -> PlainText:
        """Puts plain words in the place of medical terms where that is safe, and lists them."""
        require_text(text, "text")
        plain, replaced = self._glossary.simplify(text)
        return PlainText(
            text=plain, replaced=[Replaced(term=one.term, plain=one.plain) for one in replaced]
        )

    def _score_fields(self, answer: EvaluateResponse) -> dict[str, Any]:
        """The fields of a `Score` of the one pair of an answer."""
        names = ("loss", "metrics", "targets", "errors", "truncated")
        fields = {name: getattr(answer.results[0], name) for name in names}
        more = {"weights": answer.weights, "models": answer.models, "profile": answer.profile}
        return fields | more | {"warnings": self._desk.warnings}

    def targets(self) -> str:
        """The targets in use, as JSON."""
        return json.dumps(self._desk.targets(), ensure_ascii=False, indent=2)


class _Quotes:
    """Quotes sentences of a pair by their spans."""

    def __init__(self, original: str, summary: str) -> None:
        self._original, self._summary = original, summary
        self._spans = sentence_spans(original)

    def original(self, start: int, end: int) -> str:
        """A passage of the original, on one line."""
        return " ".join(self._original[start:end].split())

    def found(
        self, one: Any, sentence: tuple[int, int], sources: Iterable[tuple[int, int]]
    ) -> Found:
        """A finding of the library or of the API, with its spans."""
        starts = [start for start, _ in sources]
        return Found(
            kind=one.kind,
            severity=one.severity,
            message=one.message,
            summary=" ".join(self._summary[slice(*sentence)].split()),
            original=[
                self.original(start, end)
                for start, end in self._spans
                if any(start <= first < end for first in starts)
            ],
        )

    def left_out(self, one: Any, start: int, end: int) -> LeftOut:
        """An omission of the library or of the API."""
        return LeftOut(topic=one.topic, message=one.message, original=self.original(start, end))


def _require(original: str, summary: str) -> None:
    require_text(original, "original")
    require_text(summary, "summary")


def pages() -> dict[str, str]:
    """The pages of the documentation that are served, by name, with their titles."""
    files = sorted((RESOURCES / "docs").glob("*.md"))
    return {
        file.stem: file.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")
        for file in files
        if file.is_file()
    }


def create_server(desk: Desk) -> MCPServer:
    """The server, without a transport.

    Raises:
        ConfigError: the SDK is not installed.
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.server.mcpserver.resources import FunctionResource
        from mcp_types import ToolAnnotations
    except ImportError as error:
        raise ConfigError(
            f"plainmed mcp needs the MCP SDK, 2.3 or later ({error}): pip install 'plainmed[mcp]'"
        ) from None

    def told(tool: Callable[P, T]) -> Callable[P, T]:
        """`tool` with the errors that the agent shall read."""

        @wraps(tool)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return tool(*args, **kwargs)
            except PlainMedError as error:
                about = f"{error.field}: " if error.field else ""
                raise ToolError(f"{about}{error}") from None

        return call

    tools = Tools(desk)
    server = MCPServer(
        "plainmed",
        title="PlainMed",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
    )
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for tool in (tools.score, tools.check, tools.explain, tools.generate, tools.glossary):
        server.add_tool(told(tool), annotations=reading)
    server.add_resource(
        FunctionResource(
            uri=TARGETS_URI,
            name="targets",
            description="The targets of the loss: means and deviations of human summaries.",
            mime_type="application/json",
            fn=told(tools.targets),
        )
    )
    for name, title in pages().items():
        path = RESOURCES / "docs" / f"{name}.md"
        server.add_resource(
            FunctionResource(
                uri=f"{DOCS_URI}{name}",
                name=f"docs/{name}",
                description=title,
                mime_type="text/markdown",
                fn=lambda path=path: path.read_text(encoding="utf-8"),
            )
        )
    return server
