"""Merges a LoRA adapter directory with its base directory into a directory of safetensors.

The merged model takes its place only once it has given the adapter's logits. Knows no S3.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

from serve_app.core.atomic_write import atomic_folder
from serve_app.core.documents import read_json
from serve_app.core.errors import ConfigError
from serve_app.models.causal_lm import load_adapted, load_causal_model, merge, require_adapter
from serve_app.models.packed_decoder import can_pack
from serve_app.models.pretrained import DTYPES
from serve_app.models.quantised import QUANTISED, require_cpu_support
from serve_app.models.quantised_files import save_quantised
from serve_app.models.verification import read_config, refusing

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""Largest difference of any logit, relative to the largest logit, by the dtype written."""

QUANTISED_TOLERANCE = {"int8": 0.15, "int4": 0.6}
"""Largest root mean square of the logits' differences, relative to that of the logits."""

RECORD = "plainmed-merge.json"
"""File in a merged directory: what it was made of, and how far its logits differ."""

PROMPT = (
    "Compared with placebo, low-dose aspirin reduced the incidence of myocardial infarction "
    "(risk ratio 0.68, 95% CI 0.55 to 0.84). In plain language:"
)

OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The result of a merge.

    Attributes:
        directory: the merged model.
        dtype: of its weights; int8 or int4 where its matrices are quantised.
        size: bytes of the directory.
        shards: number of safetensors files.
        vocabulary: rows of its embeddings.
        added_tokens: tokens of the adapter's tokenizer that the base had no row for.
        merge_error: largest logit difference of merged and adapter model, both in float32.
        saved_error: the same of the weights as written, rounded to their dtype.
        effect: largest logit difference of adapter model and base.
        scale: largest logit; errors are judged relative to it.
        warnings: what to check; the merge is good all the same.
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


def merge_adapter(
    adapter: Path,
    base: Path,
    out: Path,
    *,
    dtype: str = "auto",
    quantize: str | None = None,
    max_shard_size: str = "5GB",
    prompt: str = PROMPT,
    source: dict[str, str] | None = None,
    on_stage: OnStage | None = None,
) -> MergeReport:
    """Writes base and adapter as one model with its tokenizer.

    Merges in float32, whatever the dtype of the base, then rounds once. Needs memory for the
    base in float32 and the result in its dtype. A directory made by an earlier call of the same
    files with the same options is reused.

    Args:
        adapter: adapter directory.
        base: directory of the whole model it was trained on.
        out: where the merged model goes; absent, empty, or made by an earlier call.
        dtype: of the weights written: float32, bfloat16, float16, or `auto`, the base's own.
        quantize: int8 or int4: of its matrices, for generating on a CPU; only norms and biases
            are then of `dtype`.
        max_shard_size: largest safetensors file, such as `5GB`.
        prompt: text whose logits are compared; at least one token.
        source: added to the record, such as the references of base and adapter.
        on_stage: called with the name of each stage.

    Raises:
        ConfigError: adapter, base or tokenizer cannot be loaded or do not fit, the logits
            differ by more than TOLERANCE (QUANTISED_TOLERANCE), `out` holds something else, or
            the model or this machine's CPU is not for quantised weights.
    """
    tell = on_stage or (lambda stage: None)
    config = require_adapter(adapter)
    chosen = _dtype(base, dtype)
    if quantize is not None:
        _require_quantisable(base, quantize)
    options = [str(chosen), max_shard_size, prompt, *([quantize] if quantize else [])]
    made_of = _fingerprint(adapter, base, *options)
    found = _finished(out, made_of)
    if found is not None:
        tell("merged and checked before")
        return found
    require_replaceable(out)
    tell("loading base and adapter")
    adapted = load_adapted(adapter, base, torch.float32)
    added, warnings = adapted.added, list(adapted.warnings)
    ids = _prompt_ids(adapted.tokenizer, prompt, added)
    wanted = _logits(adapted.model, ids)
    with adapted.model.disable_adapter():
        effect = _difference(_logits(adapted.model, ids), wanted)
    tell("merging")
    merged = merge(adapted, adapter)
    scale = float(wanted.abs().max())
    merge_error = _difference(_logits(merged, ids), wanted)
    _require_close("the merged model", merge_error, scale, torch.float32)
    tell("writing")
    with atomic_folder(out) as partial:
        if quantize is None:
            _save(merged.to(chosen), adapted.tokenizer, partial, max_shard_size)
        else:
            _save_quantised(merged, chosen, adapted.tokenizer, partial, quantize, max_shard_size)
        vocabulary = merged.get_input_embeddings().weight.shape[0]
        del merged, adapted
        gc.collect()
        tell("checking what was written")
        if quantize is None:
            saved = _saved_logits(partial, ids)
            _require_close("the model as written", _difference(saved, wanted), scale, chosen)
        else:
            saved = _quantised_logits(partial, ids, quantize)
            _require_near(saved, wanted, quantize)
        saved_error = _difference(saved, wanted)
        if effect <= TOLERANCE[chosen] * scale:
            warnings.append(
                f"the adapter changes no logit of the prompt by more than {effect:.3g}, which is "
                f"within the tolerance of {chosen}: is it trained?"
            )
        files = [path for path in partial.rglob("*") if path.is_file()]
        report = MergeReport(
            directory=str(out),
            dtype=quantize or _name(chosen),
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
    return report


def require_dtype(dtype: str) -> None:
    """Raises ConfigError where `dtype` is no choice of `merge_adapter`."""
    if dtype not in ("auto", *DTYPES):
        raise ConfigError(f"dtype is {dtype!r}; choose auto or one of {', '.join(DTYPES)}")


def require_quantize(quantize: str | None) -> None:
    """Raises ConfigError where `quantize` is no choice of `merge_adapter`, or not on this CPU."""
    if quantize is not None and quantize not in QUANTISED:
        raise ConfigError(f"quantize is {quantize!r}; choose one of {', '.join(QUANTISED)}")
    if quantize is not None:
        require_cpu_support(quantize)  # what is written is run once


def _require_quantisable(base: Path, quantize: str) -> None:
    require_quantize(quantize)
    config = read_config(base)
    if not can_pack(config):
        raise ConfigError(
            f"the base {base} is a {config.model_type} model, and none that runs quantised; leave "
            "--quantize away"
        )


def _dtype(base: Path, dtype: str) -> torch.dtype:
    require_dtype(dtype)
    if dtype != "auto":
        return DTYPES[dtype]
    own = getattr(read_config(base), "dtype", None) or torch.float32
    return own if own in TOLERANCE else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fingerprint(adapter: Path, base: Path, *options: str) -> str:
    """A hash of a merge's inputs: the adapter's bytes, the base's files, options, versions."""
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
    return {module.__name__: module.__version__ for module in (torch, transformers, peft)}


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


def require_replaceable(out: Path) -> None:
    """Raises ConfigError where `out` holds something else than a merged model."""
    if out.exists() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ConfigError(f"{out} holds something that is no merged model; name another folder")


def _prompt_ids(tokenizer: Any, prompt: str, added: list[int]) -> torch.Tensor:
    """The prompt and some of the added tokens, so that their rows are compared too."""
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
    """Logits of the weights as written, computed in float32: only their rounding differs."""
    with refusing(f"cannot load what was written to {directory}"):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return _logits(model, ids)


def _save_quantised(
    model: Any, dtype: torch.dtype, tokenizer: Any, out: Path, quantize: str, max_shard_size: str
) -> None:
    with refusing(f"cannot write the merged model to {out}"):
        weights = {
            name: value if value.dim() == 2 else value.to(dtype)
            for name, value in model.state_dict().items()
        }
        save_quantised(weights, model.config, out, quantize, max_shard_size)
        model.generation_config.save_pretrained(out)
        tokenizer.save_pretrained(out)


def _quantised_logits(directory: Path, ids: torch.Tensor, quantize: str) -> torch.Tensor:
    """Logits as a server of the quantised files computes them."""
    cpu = torch.device("cpu")
    model = load_causal_model(directory, device=cpu, dtype=torch.float32, packed=quantize).model
    [tokens] = ids.tolist()
    with torch.inference_mode():
        logits: torch.Tensor = model([tokens], [model.new_row(len(tokens))], [len(tokens)])
    return logits.unsqueeze(0)


def _require_near(found: torch.Tensor, wanted: torch.Tensor, quantize: str) -> None:
    off, limit = float((found - wanted).norm() / wanted.norm()), QUANTISED_TOLERANCE[quantize]
    if not off <= limit:  # also where it is not a number
        raise ConfigError(
            f"the model in {quantize} is too far from the merged one: its logits differ by "
            f"{off:.2g} of their size, and {limit:g} is allowed; nothing was written; use "
            f"{'int8' if quantize == 'int4' else 'bfloat16'}"
        )
