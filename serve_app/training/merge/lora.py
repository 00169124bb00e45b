"""Merges a LoRA adapter directory with its base directory into a directory of safetensors.

The merged model is written beside its place and renamed into it once it has given the
logits of the adapter model, so that what is there has been checked. Knows no S3.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.formats import DTYPES, has_tokenizer
from serve_app.models.verification import (
    read_config,
    refusing,
    require_finite,
    require_fitting,
    require_sound_files,
)

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""Largest difference of any logit, as a share of the largest logit, by the dtype written."""

RECORD = "plainmed-merge.json"
"""File in a merged directory that says what it was made of, and how well it was matched."""

PROMPT = (
    "Compared with placebo, low-dose aspirin reduced the incidence of myocardial infarction "
    "(risk ratio 0.68, 95% CI 0.55 to 0.84). In plain language:"
)

OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """How a merge went.

    Attributes:
        directory: the merged model.
        dtype: of its weights.
        size: bytes of the directory.
        shards: safetensors files.
        vocabulary: tokens the model has rows for.
        added_tokens: tokens the adapter's tokenizer has and the base had no row for.
        merge_error: largest logit difference of merged and adapter model, both in float32.
        saved_error: the same of the weights as written, rounded to their dtype.
        effect: largest logit difference the adapter makes to the base.
        scale: largest logit; errors are judged as shares of it.
        warnings: what to look at; the merge is good all the same.
    """

    directory: str
    dtype: str
    size: int
    shards: int
    vocabulary: int
    added_tokens: int
    merge_error: float
    saved_error: float
    effect: float
    scale: float
    warnings: tuple[str, ...]


def require_adapter(directory: Path) -> dict[str, Any]:
    """The configuration of the LoRA adapter in `directory`.

    Raises:
        ConfigError: there is none, or it is an adapter of another kind.
    """
    path = directory / "adapter_config.json"
    if not path.is_file():
        raise ConfigError(f"{directory} is no LoRA adapter: it has no adapter_config.json")
    with refusing(f"cannot read {path}"):
        config = read_json(path, strict=False)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ConfigError(f"{path} is of kind {kind!r}; only LORA adapters can be merged")
    return dict(config)


def merge_adapter(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    dtype: str = "auto",
    max_shard_size: str = "5GB",
    prompt: str = PROMPT,
    source: dict[str, str] | None = None,
    on_stage: OnStage | None = None,
) -> MergeReport:
    """Writes base and adapter as one model with its tokenizer.

    Merged in float32, whatever the base is kept in, then rounded once. Needs memory for the
    base in float32 and the result in its dtype. A directory that an earlier call made of the
    same files with the same options is taken as it is.

    Args:
        adapter: adapter directory.
        base: directory of the whole model it was trained on.
        out: where the merged model goes; absent, empty, or made by an earlier call.
        dtype: of the weights written: float32, bfloat16, float16, or `auto`, the base's own.
        max_shard_size: largest safetensors file, such as `5GB`.
        prompt: what the logits are compared on; at least one token.
        source: said in the record, such as the references base and adapter came from.
        on_stage: told what is being done.

    Raises:
        ConfigError: adapter, base or tokenizer cannot be loaded or do not fit, the logits
            differ by more than TOLERANCE, or `out` holds something else.
    """
    tell = on_stage or (lambda stage: None)
    config = require_adapter(adapter)
    chosen = _dtype(base, dtype)
    made_of = _fingerprint(adapter, base, str(chosen), max_shard_size, prompt)
    found = _finished(out, made_of)
    if found is not None:
        tell("merged and checked before")
        return found
    tell("loading base and adapter")
    tokenizer = _tokenizer(adapter, base)
    model, added, warnings = _adapted(adapter, base, tokenizer, config)
    ids = _prompt_ids(tokenizer, prompt, added)
    wanted = _logits(model, ids)
    with model.disable_adapter():
        effect = _difference(_logits(model, ids), wanted)
    tell("merging")
    with refusing(f"cannot merge the LoRA adapter {adapter}"):
        merged = model.merge_and_unload(safe_merge=True)
    scale = float(wanted.abs().max())
    merge_error = _difference(_logits(merged, ids), wanted)
    _require_close("the merged model", merge_error, scale, torch.float32)
    tell("writing")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _save(merged.to(chosen), tokenizer, partial, max_shard_size)
        vocabulary = merged.get_input_embeddings().weight.shape[0]
        del model, merged
        gc.collect()
        tell("checking what was written")
        saved_error = _difference(_saved_logits(partial, ids), wanted)
        _require_close("the model as written", saved_error, scale, chosen)
        if effect <= TOLERANCE[chosen] * scale:
            warnings.append(
                f"the adapter changes no logit of the prompt by more than {effect:.3g}, which is "
                f"within the tolerance of {chosen}: is it trained?"
            )
        files = [path for path in partial.rglob("*") if path.is_file()]
        report = MergeReport(
            directory=str(out),
            dtype=_name(chosen),
            size=sum(path.stat().st_size for path in files),
            shards=sum(path.suffix == ".safetensors" for path in files),
            vocabulary=vocabulary,
            added_tokens=len(added),
            merge_error=merge_error,
            saved_error=saved_error,
            effect=effect,
            scale=scale,
            warnings=tuple(warnings),
        )
        said = {**asdict(report), "directory": out.name, **(source or {})}
        record = {"made_of": made_of, "rank": config.get("r"), **said, **_versions()}
        text = json.dumps(record, indent=2) + "\n"
        (partial / RECORD).write_text(text, encoding="utf-8")
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _dtype(base: Path, dtype: str) -> torch.dtype:
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ConfigError(f"dtype is {dtype!r}; choose auto or one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    own = getattr(read_config(base), "dtype", None) or torch.float32
    return own if own in TOLERANCE else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fingerprint(adapter: Path, base: Path, *options: str) -> str:
    """Names what goes into a merge: the adapter's bytes, the base's files, options, versions."""
    digest = hashlib.sha256(json.dumps([options, _versions()]).encode())
    for path in sorted(one for one in adapter.rglob("*") if one.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"\n{path.relative_to(adapter)} {content}".encode())
    for path in sorted(one for one in base.iterdir() if one.is_file()):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _finished(out: Path, made_of: str) -> MergeReport | None:
    try:
        record = read_json(out / RECORD)
        if record["made_of"] != made_of:
            return None
        fields = {name: record[name] for name in MergeReport.__slots__}
        fields.update(directory=str(out), warnings=tuple(record["warnings"]))
        files = [p for p in out.rglob("*") if p.is_file() and p.name != RECORD]
        whole = sum(path.stat().st_size for path in files) == fields["size"]
        return MergeReport(**fields) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _replace(out: Path, partial: Path) -> None:
    if out.exists():
        if any(out.iterdir()) and not (out / RECORD).is_file():
            raise ConfigError(
                f"{out} holds something that is no merged model; remove it or name another"
            )
        shutil.rmtree(out)
    partial.rename(out)


def _tokenizer(adapter: Path, base: Path) -> Any:
    for directory in (adapter, base):
        if has_tokenizer(directory):
            with refusing(f"cannot load the tokenizer in {directory}"):
                return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    raise ConfigError(f"neither {adapter} nor its base {base} has a tokenizer; copy one there")


def _adapted(
    adapter: Path, base: Path, tokenizer: Any, config: dict[str, Any]
) -> tuple[Any, list[int], list[str]]:
    """Base and adapter in float32, the ids of added tokens, and warnings."""
    for directory in (base, adapter):
        require_sound_files(directory)
    require_fitting(AutoModelForCausalLM, read_config(base), base)
    with refusing(f"cannot load the base model in {base}"):
        model, info = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    if info["missing_keys"]:  # transformers fills them with random numbers and goes on
        names = sorted(info["missing_keys"])
        raise ConfigError(f"the base model in {base} lacks weights, such as {', '.join(names[:3])}")
    require_finite(model.state_dict(), base, "get the base again")
    rows = model.get_input_embeddings().weight.shape[0]
    trained = _trained_rows(adapter, model)
    wanted = max(rows, len(tokenizer)) if trained is None else trained
    if wanted < len(tokenizer):
        raise ConfigError(
            f"the adapter {adapter} has rows for {wanted} tokens, but its tokenizer has "
            f"{len(tokenizer)}; use the tokenizer it was trained with"
        )
    added = list(range(rows, len(tokenizer)))
    warnings = []
    if wanted != rows:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # rows nobody trained are drawn: the same ones each time
            model.resize_token_embeddings(wanted)
    if added and trained is None:
        warnings.append(
            f"the adapter holds no trained rows for the {len(added)} tokens its tokenizer adds; "
            "they are what transformers draws for new tokens"
        )
    if trained is not None and not config.get("ensure_weight_tying"):
        _untie(model)
    with refusing(f"the LoRA adapter {adapter} does not fit its base {base}"):
        adapted = PeftModel.from_pretrained(model, str(adapter), low_cpu_mem_usage=True).eval()
    require_finite(adapted.state_dict(), adapter, "train the adapter again, or fetch it again")
    return adapted, added, warnings


def _untie(model: Any) -> None:
    """Gives the output its own table where it shares the input's, and keeps it so when saved.

    The adapter trained one table, and left the other as it was: merged into a shared one, it
    would change both.
    """
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if output is not None and output.weight is embeddings.weight:
        output.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def _trained_rows(adapter: Path, model: Any) -> int | None:
    """Tokens that embeddings in the adapter's weights have rows for; None: it has none."""
    names = {module: name for name, module in model.named_modules()}
    embeddings = names[model.get_input_embeddings()]
    output = model.get_output_embeddings()
    head = names.get(output) if output is not None else None
    axes = {f"{embeddings}.weight": 0, f"{embeddings}.lora_embedding_A": 1}
    if head is not None:
        axes |= {f"{head}.weight": 0, f"{head}.lora_B.weight": 0}
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        return None
    with refusing(f"cannot read {weights}"), safe_open(weights, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            for ending, axis in axes.items():
                if key.endswith(f".{ending}"):
                    return int(file.get_slice(key).get_shape()[axis])
    return None


def _prompt_ids(tokenizer: Any, prompt: str, added: list[int]) -> torch.Tensor:
    """The prompt, and after it some of the added tokens, so that their rows are compared too."""
    ids = [*tokenizer(prompt)["input_ids"], *added[:8]]
    if not ids:
        raise ConfigError("the prompt has no tokens; give one with words")
    return torch.tensor([ids])


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


def _require_close(what: str, error: float, scale: float, dtype: torch.dtype) -> None:
    limit = TOLERANCE[dtype] * scale
    if not error <= limit:  # also where it is not a number
        raise ConfigError(
            f"{what} does not give the adapter's logits: they differ by up to {error:.3g}, and "
            f"{limit:.3g} is allowed ({TOLERANCE[dtype]:g} of the largest, in {_name(dtype)}); "
            "nothing was written; check that base and adapter belong together"
        )


def _save(model: Any, tokenizer: Any, out: Path, max_shard_size: str) -> None:
    with refusing(f"cannot write the merged model to {out}"):
        model.save_pretrained(out, max_shard_size=max_shard_size)
        tokenizer.save_pretrained(out)


def _saved_logits(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    """Of the weights as written, computed in float32: what differs is their rounding alone."""
    with refusing(f"cannot load what was written to {directory}"):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return _logits(model, ids)
