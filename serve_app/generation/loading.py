"""Builds the generator engine that the settings name. Knows which engines there are."""

from __future__ import annotations

from serve_app.core.errors import ConfigError
from serve_app.core.settings import Settings
from serve_app.generation.protocol import Generator
from serve_app.storage.artifacts import Downloads


def load_generator(settings: Settings, *, wait_s: float = 60.0) -> Generator:
    """Loads the engine of `settings.generator_engine`, ready to generate.

    `wait_s` is how long to wait for the server of the openai engine to come up.

    Raises:
        ConfigError: the transformers engine has no model, the openai engine no server, or a model,
            the targets or another setting is wrong.
        PlainMedError: the server of the openai engine is not up, or refuses us.
    """
    # Imported where needed: each engine brings libraries that the others do without.
    if settings.generator_engine == "transformers":
        return _transformers(settings)
    if settings.generator_engine == "openai":
        return _openai(settings, wait_s)
    return _extractive(settings)


def _transformers(settings: Settings) -> Generator:
    from serve_app.generation.causal.engine import TransformersGenerator

    if settings.generator_reference is None:
        cause = "GENERATOR is transformers, but there is no model"
        if settings.model_name:
            cause = f"MODEL_NAME is {settings.model_name}, but MODEL_S3_BUCKET is not set"
        raise ConfigError(
            f"{cause}: set MODEL_PATH to a directory or an s3:// or hf:// reference, or MODEL_NAME "
            "and MODEL_S3_BUCKET, or set GENERATOR to extractive"
        )
    return TransformersGenerator.from_reference(
        settings.generator_reference,
        system_prompt=settings.system_prompt,
        user_prefix=settings.user_prefix,
        device=settings.device,
        dtype=settings.generator_dtype,
        lookup=settings.generator_lookup,
        long_input=settings.generator_long_input,
        batch_size=settings.generator_batch,
        timeout_s=settings.generation_timeout_s,
        base_reference=settings.model_base,
        downloads=Downloads.of(settings),
    )


def _openai(settings: Settings, wait_s: float) -> Generator:
    if settings.openai_base_url is None or settings.openai_model is None:
        raise ConfigError(
            "GENERATOR is openai: set OPENAI_BASE_URL to the root of an OpenAI-compatible API, "
            "such as http://127.0.0.1:8080/v1, and OPENAI_MODEL to a model it serves"
        )
    from serve_app.generation.openai.engine import OpenAIGenerator

    key = settings.openai_api_key
    engine = OpenAIGenerator(
        settings.openai_base_url,
        settings.openai_model,
        api_key=key.get_secret_value() if key else None,
        system_prompt=settings.system_prompt,
        user_prefix=settings.user_prefix,
        timeout_s=settings.openai_timeout_s,
        max_retries=settings.openai_max_retries,
        concurrency=settings.openai_concurrency,
        max_tokens_field=settings.openai_max_tokens_field,
        repeat_penalty_field=settings.openai_repeat_penalty_field,
    )
    engine.wait_until_up(wait_s)
    return engine


def _extractive(settings: Settings) -> Generator:
    from serve_app.generation.extractive.engine import ExtractiveGenerator
    from serve_app.metrics.loss import LossFunction
    from serve_app.metrics.suite import MetricSuite
    from serve_app.text.glossary import Glossary

    if settings.generator_engine == "plain":
        from serve_app.generation.plain.engine import PlainGenerator

        return PlainGenerator.from_settings(settings)
    # The targets first: a wrong file is reported at once, not after the models have loaded.
    loss = LossFunction.of(settings)
    return ExtractiveGenerator(
        MetricSuite.from_settings(settings),
        loss,
        Glossary.load(),
        max_words=settings.extractive_max_words,
    )
