"""Every setting of PlainMed, once: its name, type, default and meaning.

Each field is read from the environment variable of the same name in capitals
(`alignscore_batch` from `ALIGNSCORE_BATCH`); the names of the earlier system are kept.
`serve_config.yaml` may give the same fields under `settings:`; the environment wins, so an operator
can override a baked-in file. Unknown fields and malformed values raise `ConfigError` naming the
variable. Pickled settings leave secrets out, since Ray stores what it is given (in Redis, where
told to); each process reads them from its environment.
"""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serve_app.core.errors import ConfigError
from serve_app.core.sampling import (
    GenerationParams,
    MaxNewTokens,
    RepeatPenalty,
    Temperature,
    TopP,
)

logger = logging.getLogger("ray.serve")

LanguageCheck = Literal["warn", "refuse", "off"]
EvalMode = Literal["nli_sp", "bin_sp", "reg_sp", "nli", "bin", "reg"]
Dtype = Literal["float32", "bfloat16", "float16"]
GeneratorDtype = Literal["float32", "bfloat16", "float16", "int8", "int4"]
FactualityChecker = Literal["alignscore", "minicheck", "hhem", "factcg", "summac-zs", "summac-conv"]


Steepness = Literal["calibrated", "legacy"] | Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A number is k * sigma."""


class Settings(BaseSettings):
    """All settings, immutable. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), env_ignore_empty=True
    )

    host: str = Field("127.0.0.1", description="Address `plainmed serve` binds to.")
    port: int = Field(8000, ge=1, le=65535, description="Port `plainmed serve` listens on.")
    cors_origins: str = Field(
        "", description="Comma-separated origins allowed to call from a browser; empty: none."
    )
    max_body_bytes: int = Field(8_388_608, ge=1024, description="Largest request body, in bytes.")
    max_texts: int = Field(1024, ge=1, description="Most texts (or pairs) in one request.")
    max_text_chars: int = Field(1_000_000, ge=1, description="Longest single text, in characters.")
    max_candidates: int = Field(
        16, ge=1, description="Most candidates of one text that a request may ask for (n)."
    )
    request_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Longest time of one request, after which it gets 503; a client may ask for "
        "less by X-Request-Timeout.",
    )
    max_wait_s: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="A request that would wait longer for others is refused at once (503).",
    )
    max_pending_requests: int = Field(
        256, ge=1, description="Most concurrent requests of a gateway replica; more get 503."
    )
    max_pending_mb: int = Field(
        64, ge=1, description="Most MiB of concurrent request bodies; more get 503."
    )
    drain_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest wait of `plainmed serve` for accepted requests at shutdown.",
    )

    api_keys_file: str | None = Field(
        None,
        description="API keys file, made by `plainmed keys new` and read again when it changes. "
        "Without it and API_KEYS everybody may call.",
    )
    api_keys: SecretStr | None = Field(
        None, description="Content of such a file, for platforms that give secrets as variables."
    )
    allow_no_keys: bool = Field(
        False,
        description="Start without keys on an address that other machines can reach; for use "
        "behind a proxy that authenticates callers.",
    )

    traces_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector (OTLP over HTTP), such as http://127.0.0.1:4318; "
        "unset: no traces.",
    )
    traces_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of requests to trace, also of those whose client asks for a trace; "
        "a client can opt out.",
    )

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where models run: auto (GPU when there is one), cpu, cuda, cuda:N or mps.",
    )
    torch_num_threads: int = Field(
        0, ge=0, description="Threads of a model replica; 0: as many as its num_cpus, at least 1."
    )
    metrics_dtype: Dtype = Field(
        "float32", description="Weights of both metric encoders; bfloat16 is faster, not exact."
    )

    bertscore_model: str = Field(
        "embedded:all-MiniLM-L6-v2", description="Encoder of the relevance metric (a reference)."
    )
    bertscore_layer: int | None = Field(
        None, ge=0, description="Hidden layer; unset: as bert-score chooses for known models."
    )
    bertscore_long_text: Literal["truncate", "window"] = Field(
        "truncate", description="Texts over the encoder's limit: cut as bert-score, or windowed."
    )
    bertscore_cache_mb: int = Field(
        256, ge=0, description="MiB of originals' embeddings that each replica caches; 0: none."
    )

    factuality_checker: FactualityChecker = Field(
        "alignscore",
        description="What computes factuality; the others take FACTUALITY_MODEL and targets of "
        "their own.",
    )
    factuality_model: str | None = Field(
        None, description="Model of a checker that is not AlignScore (a reference)."
    )
    factuality_weights: str | None = Field(
        None,
        description="Weights beside it (a reference): HHEM's, with its T5 in FACTUALITY_MODEL, or "
        "SummaC-Conv's layers.",
    )
    alignscore_model: str = Field(
        "embedded:alignscore-mini",
        description="AlignScore model, or the backbone of ALIGNSCORE_CKPT (a reference).",
    )
    alignscore_ckpt: str | None = Field(
        None, description="A published Lightning .ckpt; unset: ALIGNSCORE_MODEL holds all weights."
    )
    alignscore_batch: int = Field(
        32, ge=1, description="Most (chunk, sentence) pairs of one forward pass, of any checker."
    )
    alignscore_max_pairs: int = Field(
        10_000, ge=1, description="Most such pairs of one original and its summary; more get 422."
    )
    alignscore_eval_mode: EvalMode | None = Field(
        None, description="Head, and whether to split; unset: the model's own, nli_sp for a .ckpt."
    )
    alignscore_chunk_words: int | None = Field(
        None, ge=8, description="Context chunk size in words; unset: the model's own (350)."
    )

    targets_file: str | None = Field(
        None, description="Targets JSON; unset: the one shipped for the embedded models."
    )
    loss_steepness: Steepness = Field(
        "calibrated", description="Readability curves: calibrated, legacy, or a number k * sigma."
    )
    loss_direction: Literal["two_sided", "one_sided"] = Field(
        "two_sided", description="two_sided: match human writing; one_sided: better costs nothing."
    )
    loss_targets: Literal["corpus", "human"] = Field(
        "corpus", description="human: with texts_human, each sample's own human text is its target."
    )
    language_check: LanguageCheck = Field(
        "warn",
        description="Texts that are certainly not English: warn: score them and name their "
        "language; refuse: answer 422; off: do not look.",
    )
    generator: Literal["auto", "extractive", "plain", "transformers", "openai"] = Field(
        "auto",
        description="Engine; auto: transformers when MODEL_PATH or MODEL_NAME is set, "
        "else extractive. Only openai sends texts to another server, and only when it is named.",
    )
    model_path: str | None = Field(
        None, description="Causal model or LoRA adapter (a reference) of the transformers engine."
    )
    model_name: str | None = Field(
        None, description="With MODEL_S3_BUCKET: s3://BUCKET/merged-models/MODEL_NAME/."
    )
    model_s3_bucket: str | None = Field(None, description="Bucket of merged generator models.")
    model_base: str | None = Field(
        None, description="Base of a LoRA adapter (a reference), if not the one it names itself."
    )
    generator_dtype: GeneratorDtype = Field(
        "float32",
        description="Weights of the transformers engine; on CPUs int8 is the fastest and int4 "
        "the smallest.",
    )
    generator_lookup: bool = Field(
        True,
        description="Guess tokens of a summary from its source and check them in one pass: fewer "
        "passes, and in float32 and int8 the same text. CPUs only.",
    )
    generator_long_input: Literal["error", "window"] = Field(
        "error", description="Input over the context: refuse with 422, or summarise in windows."
    )
    generator_batch: int = Field(
        16, ge=1, description="Most texts a replica generates at once, over all requests."
    )
    generation_timeout_s: float = Field(
        240.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds after which a summary is cut off, with finish_reason time; keep it "
        "below REQUEST_TIMEOUT_S.",
    )
    max_new_tokens: MaxNewTokens = Field(
        GenerationParams.max_new_tokens,
        description="Longest summary, in tokens; a request that asks for more gets 422.",
    )
    temperature: Temperature = Field(
        GenerationParams.temperature, description="0 decodes greedily."
    )
    top_p: TopP = Field(GenerationParams.top_p, description="Top-p (nucleus) sampling threshold.")
    repeat_penalty: RepeatPenalty = Field(
        GenerationParams.repeat_penalty, description="Repetition penalty; 1 is none."
    )
    # What the earlier system trained its models with, so that they are asked as they were.
    system_prompt: str = Field(
        "You simplify clinical trial protocol text into a plain-language summary for the general "
        "public. Keep to 6\u20138th grade readability, avoid diagnoses and speculation, no "
        "hallucinations, and preserve key facts (objective, population, interventions, outcomes, "
        "timelines, safety).",
        description="System message of the engines that write with a language model.",
    )
    user_prefix: str = Field(
        "Using the following clinical trial protocol text as input, create a plain language "
        "summary.\n\n",
        description="Precedes the text in the user message.",
    )
    extractive_max_words: int = Field(
        220, ge=20, description="Length budget of the extractive and plain engines, in words."
    )
    plain_headings: bool = Field(
        False, description="Headings as in Cochrane's guidance between the parts (plain engine)."
    )
    plain_rules_off: str = Field(
        "", description="Rules of the plain engine to leave out, by name, separated by spaces."
    )

    openai_base_url: str | None = Field(
        None,
        description="OpenAI-compatible API of the openai engine, such as http://127.0.0.1:8080/v1.",
    )
    openai_api_key: SecretStr | None = Field(
        None, description="Its API key; unset for servers that need none."
    )
    openai_model: str | None = Field(None, description="Name of its model.")
    openai_timeout_s: float = Field(
        240.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time for one summary, retries included; keep it below "
        "REQUEST_TIMEOUT_S.",
    )
    openai_max_retries: int = Field(
        3, ge=0, le=20, description="Further tries after 408, 409, 429, 5xx or a lost connection."
    )
    openai_concurrency: int = Field(
        16, ge=1, le=1024, description="Most concurrent requests of a replica to it."
    )
    openai_max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="Its name for MAX_NEW_TOKENS."
    )
    openai_repeat_penalty_field: Literal["none", "repetition_penalty", "repeat_penalty"] = Field(
        "none",
        description="Its name for REPEAT_PENALTY: repetition_penalty (vLLM), repeat_penalty "
        "(llama.cpp); none: not sent.",
    )

    hf_token: SecretStr | None = Field(None, description="Token for hf:// references.")
    cache_dir: str | None = Field(
        None, description="Where downloads are kept; unset: the user's cache directory."
    )
    cache_max_gb: float = Field(
        100.0,
        gt=0,
        allow_inf_nan=False,
        description="Most 10^9 bytes of downloads; those that no process uses are deleted first.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        for origin in filter(None, (part.strip() for part in value.split(","))):
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ValueError(f"{origin!r} is not an origin such as https://example.org")
        return value

    @field_validator("openai_base_url", "traces_endpoint")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL such as http://127.0.0.1:8080/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "must hold no password, query or fragment; a key is a setting of its own"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what the caller gave; no .env file, no secrets folder."""
        return (env_settings, init_settings)

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but the secrets, which are replaced by whether they are set.

        Raises:
            ConfigError: a secret does not come from the environment, so it could not be read again.
        """
        state, here = super().__getstate__(), _secrets_here()
        values = dict(state["__dict__"])
        for name, found in here.items():
            if values[name] is not None and values[name] != found:
                raise ConfigError(
                    f"{name.upper()} is a secret, and Ray would keep it: set the environment "
                    f"variable, and take {name} out of the Serve config"
                )
            values[name] = values[name] is not None
        return {**state, "__dict__": values}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Takes the secrets from the environment of this process.

        Raises:
            ConfigError: one was set where this was pickled and is not here: an API with keys would
                become one without.
        """
        values, here = dict(state["__dict__"]), _secrets_here()
        missing = [name.upper() for name, found in here.items() if values[name] and found is None]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)}: not set in the environment of this process of Ray, though "
                "it was where the application was built; give every node the same"
            )
        super().__setstate__({**state, "__dict__": {**values, **here}})

    @property
    def generator_engine(self) -> Literal["extractive", "plain", "transformers", "openai"]:
        """The engine, with `auto` resolved."""
        if self.generator != "auto":
            return self.generator
        return "transformers" if self.model_path or self.model_name else "extractive"

    @property
    def generator_at_once(self) -> int:
        """Most texts that a replica of this engine computes at once."""
        if self.generator_engine == "transformers":
            return self.generator_batch
        return self.openai_concurrency if self.generator_engine == "openai" else 1

    @property
    def generator_reference(self) -> str | None:
        """The causal model: MODEL_PATH, else by MODEL_S3_BUCKET and MODEL_NAME, else None."""
        if self.model_path:
            return self.model_path
        if self.model_name and self.model_s3_bucket:
            return f"s3://{self.model_s3_bucket}/merged-models/{self.model_name}/"
        return None


def secret_settings() -> list[str]:
    """Names of the settings whose values must never be shown or stored."""
    fields = Settings.model_fields.items()
    return [name for name, field in fields if SecretStr in get_args(field.annotation)]


def _secrets_here() -> dict[str, SecretStr | None]:
    """The secret settings in this process's environment."""
    found = EnvSettingsSource(Settings)()
    return {name: SecretStr(found[name]) if found.get(name) else None for name in secret_settings()}


RETIRED = {
    "crowded_wait_s": "after a refusal the queue is always kept to 5 s",
    "openai_wait_s": "a server always waits 30 minutes for the model's server, a command 1 minute",
    "retry_after_s": "Retry-After is always at least 2 s",
    "token_budget": "a forward pass always takes at most 8192 tokens",  # nosec B105 - no password
}
"""Settings of earlier versions, and what holds instead. One still set is ignored with a warning."""


def load_settings(**values: Any) -> Settings:
    """Reads settings from the environment over `values` (as from `serve_config.yaml`).

    Raises:
        ConfigError: a name is unknown or a value malformed; the message names each variable.
    """
    for name in RETIRED.keys() & {*values, *map(str.lower, os.environ)}:
        values.pop(name, None)
        logger.warning("%s is no longer a setting: %s; unset it", name.upper(), RETIRED[name])
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = str(item["loc"][0]).upper() if item["loc"] else "SETTINGS"
            if item["type"] == "extra_forbidden":
                problems.append(f"{name}: there is no such setting")
            else:
                problems.append(f"{name}: {item['msg']}")
        raise ConfigError("bad settings: " + "; ".join(problems)) from None
