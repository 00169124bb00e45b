"""Profiles: whom a summary is for, as targets, direction and weights of the loss.

`cochrane`, the default, is the loss of the settings, unchanged. The others ask what health
organisations ask of texts for the public and for patients: each is a targets file in
`resources/` that cites its sources, and whose loss may have terms beside the five metrics
(`serve_app.evidence.reader`). Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast, get_args

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.resources import RESOURCES
from serve_app.core.schemas import ProfileName, TermName
from serve_app.core.settings import Settings
from serve_app.evidence import Check, check, read
from serve_app.evidence.reader import TERMS, reader_errors
from serve_app.metrics.evaluation import Evaluation, Measured, Term, evaluate, with_terms
from serve_app.metrics.loss import Direction, LossFunction, Targets, check_weights

PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
DEFAULT: ProfileName = "cochrane"
TERM_NAMES: dict[str, str] = {  # for people
    "plainness": "Sentences with statistics, short names",
    "findings": "Sentences that mislead (severe findings)",
}
_FROM_MODELS = 2
"""The first metrics, relevance and factuality: numbers of a model, for which no one has a rule."""


@dataclass(frozen=True)
class Profile:
    """The loss for one kind of reader.

    Attributes:
        name: of the profile.
        loss: its targets, curves and direction.
        weights: of the five errors among themselves, in the order of `METRICS`; sum 1.
        terms: weights of the terms beside them in the whole loss, each above 0; sum below 1. None:
            the loss is that of the five metrics.
    """

    name: ProfileName
    loss: LossFunction
    weights: tuple[float, ...]
    terms: Mapping[TermName, float] = field(default_factory=dict)

    def evaluate(
        self,
        measured: Sequence[Measured],
        originals: Sequence[str],
        generated: Sequence[str],
        *,
        weights: Sequence[float] | None = None,
        human: Sequence[Measured] | None = None,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> list[Evaluation]:
        """Evaluates what was measured of each (original, generated) pair, for this reader.

        Args:
            measured: the metrics of each pair.
            originals, generated: the pairs, which only a profile with terms reads.
            weights: five in place of the profile's own; the terms keep theirs.
            human: metrics that replace the means as targets, one a pair.
            unwanted: asked again and again whether nobody waits for the result any more.

        Raises:
            InvalidInput: bad weights; with terms, a text without a word.
            Unavailable: `unwanted` said so.
        """
        used = self.weights if weights is None else weights
        found = evaluate(measured, self.loss, weights=used, human=human)
        if not self.terms:
            return found
        evaluations, last, source = [], None, None
        for one, original, text in zip(found, originals, generated, strict=True):
            if source is None or original != last:  # candidates of one original stand together
                last, source = original, read(original, unwanted)
            evaluations.append(self._with(one, text, check(source, text, unwanted)))
        return evaluations

    def _with(self, found: Evaluation, text: str, checked: Check) -> Evaluation:
        errors = reader_errors(text, checked.findings)
        terms = tuple(Term(name, errors[name], weight) for name, weight in self.terms.items())
        loss = with_terms(found.loss, terms)
        return replace(found, loss=loss, terms=terms, check=checked)


def load_profile(name: str | None, settings: Settings, targets: Targets | None = None) -> Profile:
    """The profile of that name (None: the default) on the settings' targets, or the given ones.

    Relevance and factuality keep those targets, which belong to the models that are served.

    Raises:
        InvalidInput: there is no such profile.
        ConfigError: the targets file is missing or malformed, or its factuality is another
            checker's.
    """
    known = check_profile(name)
    base = LossFunction.of(settings, targets)
    if known == DEFAULT:
        return Profile(known, base, tuple(weights_of(known)))
    file = _file(known)
    own, cut = base.targets, _FROM_MODELS
    merged = replace(
        file,
        mean=(*own.mean[:cut], *file.mean[cut:]),
        sigma=(*own.sigma[:cut], *file.sigma[cut:]),
        models=own.models,
    )
    direction = cast(Direction, file.details["direction"])
    loss = LossFunction(merged, base.steepness, direction)
    return Profile(known, loss, tuple(weights_of(known)), _terms(known))


def check_profile(name: str | None) -> ProfileName:
    """The name of a profile; None is the default.

    Raises:
        InvalidInput: there is no such profile.
    """
    for known in PROFILES:
        if known == (DEFAULT if name is None else name):
            return known
    raise InvalidInput(
        f"there is no profile {name!r}; choose {', '.join(PROFILES[:-1])} or {PROFILES[-1]}",
        field="profile",
    )


def weights_of(name: ProfileName, given: Sequence[float] | None = None) -> list[float]:
    """The weights of the five errors: those given, else the profile's.

    Raises:
        InvalidInput: they are no weights; see `check_weights`.
    """
    if given is None and name != DEFAULT:
        given = _file(name).details["weights"]
    weights: list[float] = check_weights(given).tolist()
    return weights


@cache
def _file(name: ProfileName) -> Targets:
    return Targets.load(RESOURCES / f"targets-{name}.json")


def _terms(name: ProfileName) -> dict[TermName, float]:
    given: Mapping[str, Any] = _file(name).details["terms"]
    terms = {term: float(given[term]) for term in TERMS if term in given}
    if set(given) - set(terms) or not all(terms.values()) or not 0 <= sum(terms.values()) < 1:
        raise ConfigError(f"targets-{name}.json: terms must be weights of {', '.join(TERMS)}")
    return terms
