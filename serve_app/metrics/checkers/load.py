"""Which checker the settings name, and from which references. Knows no checker's inside."""

from __future__ import annotations

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.metrics.checkers import factcg, hhem, minicheck, summac
from serve_app.metrics.checkers.published import Options, PublishedChecker
from serve_app.metrics.targets import checker_model
from serve_app.storage.artifacts import Downloads, reference_name, resolve

_OWN_WEIGHTS = ("hhem", "summac-conv")


def load_checker(settings: Settings) -> PublishedChecker:
    """The checker of FACTUALITY_CHECKER, which is not AlignScore.

    Raises:
        ConfigError: a setting is missing, belongs to another checker, or cannot be resolved.
        CheckpointError: the files do not hold a model of this checker.
    """
    checker, model = settings.factuality_checker, settings.factuality_model
    if model is None:
        raise ConfigError(
            f"FACTUALITY_CHECKER is {checker}, but FACTUALITY_MODEL is not set; docs/factuality.md "
            "has each checker's"
        )
    for name in ("alignscore_ckpt", "alignscore_eval_mode", "alignscore_chunk_words"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"{name.upper()} is for AlignScore; unset it, or FACTUALITY_CHECKER")
    weights = settings.factuality_weights
    if weights is not None and checker not in _OWN_WEIGHTS:
        raise ConfigError(f"FACTUALITY_WEIGHTS is for {' and '.join(_OWN_WEIGHTS)}; unset it")
    if weights is None and checker == "summac-conv":
        raise ConfigError(
            "FACTUALITY_CHECKER is summac-conv, but FACTUALITY_WEIGHTS is not set: give its "
            "summac_conv_vitc_sent_perc_e.bin"
        )
    downloads = Downloads.of(settings)
    directory = resolve(model, downloads)
    own = None if weights is None else resolve(weights, downloads)
    named = weights if weights is not None and checker == "hhem" else model
    name = checker_model(checker, reference_name(named))
    options: Options = {
        "device": settings.device,
        "dtype": settings.metrics_dtype,
        "max_rows": settings.alignscore_batch,
        "max_pairs": settings.alignscore_max_pairs,
    }
    if checker == "minicheck":
        return minicheck.load(directory, name, **options)
    if checker == "factcg":
        return factcg.load(directory, name, **options)
    if checker == "hhem":
        return hhem.load(directory, own or directory, name, **options)
    return summac.load(directory, own, name, **options)
