"""Merging an adapter, uploading it to moto's S3, and the served engine loading it from there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from typer.testing import CliRunner, Result

from serve_app.artifacts import resolve, s3_upload
from serve_app.artifacts.s3 import UPLOAD_MANIFEST
from serve_app.artifacts.s3_upload import upload_folder
from serve_app.errors import ConfigError
from serve_app.generation.loading import load_generator
from serve_app.generation.protocol import GenerationParams
from serve_app.merge import derive_model_name, merge_adapter, merge_and_upload, plan_merge
from serve_app.merge import merging as merging_module
from serve_app.merge.naming import require_model_name
from serve_app.settings import load_settings
from tests.artifact_servers import FlakyProxy, RequestLog, contents, numbered
from tests.tiny_models import CHAT_TEMPLATE, make_llama, make_tokenizer, save_adapter, save_model

ROOT = Path(__file__).resolve().parent.parent
TEXT = "The trial included 120 adults."
GREEDY = GenerationParams(max_new_tokens=30, temperature=0.0)
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root / "base", chat_template=CHAT_TEMPLATE)
    save_adapter(root / "org__model-run", root / "base")
    return root


@pytest.fixture
def bucket(new_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """MODEL_S3_BUCKET, an empty one; CACHE_DIR is the test's own."""
    monkeypatch.setenv("MODEL_S3_BUCKET", new_bucket)
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    return new_bucket


def s3() -> Any:
    return boto3.client("s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def keys(bucket: str, prefix: str = "") -> set[str]:
    found = s3().list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix) for item in found}


def logits(model: Any, text: str = TEXT) -> torch.Tensor:
    ids = torch.tensor([make_tokenizer()(text)["input_ids"]])
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found.float()


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        ("org__model-run", "org__model-run"),
        ("outputs/org__model-run/", "org__model-run"),
        ("/data/outputs/org/model-run", "org__model-run"),
        ("hf://org/model-run", "org__model-run"),
        ("hf://org/model-run@v1.2", "org__model-run"),
        ("s3://bucket/adapters/org__model-run/", "org__model-run"),
        ("s3://bucket/org/model-run", "org__model-run"),
        ("runs/org__model-run/checkpoint-20", "org__model-run-checkpoint-20"),
        ("runs/org__model run: 3", "org__model-run-3"),
        ("s3://bucket/model-run", "model-run"),
        ("s3://bucket/adapters/checkpoint-20", "adapters-checkpoint-20"),
        ("model-run", "here__model-run"),
        ("./model-run/../other/", "here__other"),
    ],
)
def test_the_model_name_comes_from_the_adapters_path(
    adapter: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = derive_model_name(adapter)
    assert found == name
    assert require_model_name(found) == found


@pytest.mark.parametrize("adapter", ["/", "s3://bucket/", "hf://@main", "s3://bucket/---"])
def test_a_path_that_gives_no_model_name_is_refused(adapter: str) -> None:
    with pytest.raises(ConfigError, match="no model name can be made"):
        derive_model_name(adapter)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../x", "-x", "a b", "a\n"])
def test_a_model_name_that_is_no_part_of_a_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        require_model_name(name)


# --- merging -----------------------------------------------------------------------------------


def test_merged_weights_give_the_adapters_logits_and_not_the_bases(
    models: Path, tmp_path: Path
) -> None:
    adapter, base = models / "org__model-run", models / "base"
    report = merge_adapter(adapter, base, tmp_path / "m", max_shard_size="100KB")
    assert report.shards > 1
    assert report.dtype == "float32"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    plain = AutoModelForCausalLM.from_pretrained(base)
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert (logits(merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (logits(plain) - wanted).abs().max() > 0.1
    assert report.effect > 100 * report.saved_error
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == CHAT_TEMPLATE
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_dtype_is_the_one_asked_for(dtype: str, models: Path, tmp_path: Path) -> None:
    report = merge_adapter(models / "org__model-run", models / "base", tmp_path / "m", dtype=dtype)
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
    # Rounding costs more than merging does, and less than is allowed.
    limit = merging_module.TOLERANCE[merging_module.DTYPES[dtype]] * report.scale
    assert report.merge_error < report.saved_error < limit
    assert report.saved_error < report.effect / 3
    with pytest.raises(ConfigError, match="int8"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "x", dtype="int8")


def test_auto_keeps_the_dtype_of_the_base(models: Path, tmp_path: Path) -> None:
    make_llama(make_tokenizer()).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    report = merge_adapter(models / "org__model-run", tmp_path / "base", tmp_path / "m")
    assert report.dtype == "bfloat16"


def adapter_with_more_tokens(root: Path, base: Path, *, trained: bool) -> Path:
    """An adapter whose tokenizer has two more tokens, with or without rows for them."""
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>", "<|much more|>"]})
    model = LlamaForCausalLM.from_pretrained(base)
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]} if trained else {}
    torch.manual_seed(3)
    if trained:
        model.resize_token_embeddings(len(tokenizer))
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **saved)
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or (parameter.requires_grad and "lora" not in name):
                parameter.normal_(0.0, 0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(root, save_embedding_layers=trained)
    tokenizer.save_pretrained(root)
    return root


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "untrained"])
def test_tokens_the_adapter_added_have_rows(trained: bool, models: Path, tmp_path: Path) -> None:
    adapter = adapter_with_more_tokens(tmp_path / "a", models / "base", trained=trained)
    report = merge_adapter(adapter, models / "base", tmp_path / "m")
    rows = len(make_tokenizer())
    assert (report.added_tokens, report.vocabulary) == (2, rows + 2)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "m")) == rows + 2
    weights = load_file(tmp_path / "m" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == rows + 2
    assert any("no trained rows" in warning for warning in report.warnings) is not trained
    if trained:
        own = load_file(adapter / "adapter_model.safetensors")
        (key,) = (key for key in own if key.endswith("embed_tokens.weight"))
        assert torch.equal(weights["model.embed_tokens.weight"], own[key])


def test_one_trained_table_of_two_tied_ones_stays_its_own(tmp_path: Path) -> None:
    model = make_llama(make_tokenizer())
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    assert base.lm_head.weight is base.model.embed_tokens.weight
    adapted = get_peft_model(
        base,
        LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding" in name:
                parameter.normal_(0.0, 0.3)
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    merge_adapter(tmp_path / "a", tmp_path / "base", tmp_path / "m")
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "m")
    wanted = logits(adapted.eval())
    assert (logits(merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_a_merge_that_does_not_give_the_adapters_logits_is_not_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = merging_module._save

    def damage(model: Any, tokenizer: Any, out: Path, max_shard_size: str) -> None:
        written(model, tokenizer, out, max_shard_size)
        weights = load_file(out / "model.safetensors")
        weights["model.layers.1.self_attn.q_proj.weight"] *= 1.5
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merging_module, "_save", damage)
    with pytest.raises(ConfigError, match="does not give the adapter's logits"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_does_nothing_is_pointed_out(models: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "a"
    shutil.copytree(models / "org__model-run", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    weights = {k: v * 0 if "lora_B" in k else v for k, v in weights.items()}
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    report = merge_adapter(adapter, models / "base", tmp_path / "m")
    assert any("is it trained?" in warning for warning in report.warnings)


def test_what_cannot_be_merged_says_why(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    with pytest.raises(ConfigError, match="no LoRA adapter"):
        merge_adapter(models / "base", models / "base", out)
    other = tmp_path / "other"
    shutil.copytree(models / "org__model-run", other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ConfigError, match="PREFIX_TUNING"):
        merge_adapter(other, models / "base", out)
    # Trained on a base of another shape:
    wider = save_model(tmp_path / "wide")
    weights = json.loads((wider / "config.json").read_text())
    model = LlamaForCausalLM(
        LlamaForCausalLM.config_class(**(weights | {"hidden_size": 32, "head_dim": 8}))
    )
    model.save_pretrained(wider)
    with pytest.raises(ConfigError, match="does not fit its base"):
        merge_adapter(models / "org__model-run", wider, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something"):
        merge_adapter(models / "org__model-run", models / "base", tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    assert not out.exists()


def test_a_finished_merge_is_not_made_again_unless_something_changed(
    models: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    options: dict[str, Any] = {"on_stage": stages.append}
    adapter, base, out = models / "org__model-run", models / "base", tmp_path / "m"
    first = merge_adapter(adapter, base, out, **options)
    stages.clear()
    assert merge_adapter(adapter, base, out, **options) == first
    assert stages == ["merged and checked before"]
    merge_adapter(adapter, base, out, dtype="bfloat16", **options)
    assert "merging" in stages


# --- uploading ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of three parts."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * MIB)  # the least S3 takes
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "model.safetensors").write_bytes(numbered(12 * MIB))
    (tmp_path / "up" / "config.json").write_bytes(b"{}")
    (tmp_path / "up" / "sub" / "empty").write_bytes(b"")
    return tmp_path / "up"


def test_an_uploaded_folder_comes_back_the_same_and_is_not_sent_twice(
    folder: Path, bucket: str, requests_seen: RequestLog
) -> None:
    seen: list[tuple[int, int]] = []
    report = upload_folder(folder, bucket, "m/", on_bytes=lambda *step: seen.append(step))
    assert (report.files, report.sent, report.size) == (3, 12 * MIB + 2, 12 * MIB + 2)
    assert seen[-1] == (12 * MIB + 2, 12 * MIB + 2)
    assert contents(resolve(f"s3://{bucket}/m/", cache_dir=os.environ["CACHE_DIR"])) == contents(
        folder
    )
    before = len(requests_seen.lines)
    assert upload_folder(folder, bucket, "m/").sent == 0
    sent = [line for line in requests_seen.lines[before:] if '"PUT' in line or '"POST' in line]
    assert all(UPLOAD_MANIFEST in line for line in sent)


KILLED = """
import sys
from pathlib import Path
from serve_app.artifacts import s3_upload
s3_upload.PART_BYTES = 5 << 20
s3_upload.CONNECTIONS = 1
s3_upload.upload_folder(Path(sys.argv[1]), sys.argv[2], "m/")
"""


def test_a_killed_upload_goes_on_with_the_parts_it_has(
    folder: Path, bucket: str, requests_seen: RequestLog
) -> None:
    arrived = threading.Event()

    def on_request(line: str) -> None:
        if "partNumber=2" in line and "PUT" in line and not arrived.is_set():
            process.kill()
            process.wait(30)
            arrived.set()

    requests_seen.on_request = on_request
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), bucket])
    assert arrived.wait(60)
    requests_seen.on_request = None
    assert keys(bucket) == {f"m/{UPLOAD_MANIFEST}"}
    with pytest.raises(ConfigError, match=r"not complete: 3 of 3 .*run merge_and_upload again"):
        resolve(f"s3://{bucket}/m/", cache_dir=os.environ["CACHE_DIR"])
    report = upload_folder(folder, bucket, "m/")
    assert report.sent == 2 * MIB + 2  # the third part, and the small files
    assert "Uploads" not in s3().list_multipart_uploads(Bucket=bucket)
    assert contents(resolve(f"s3://{bucket}/m/", cache_dir=os.environ["CACHE_DIR"])) == contents(
        folder
    )


def test_parts_of_another_content_are_not_used(folder: Path, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "m/model.safetensors"}
    upload = s3().create_multipart_upload(**where)["UploadId"]
    for number in (1, 2, 3, 4):
        s3().upload_part(
            **where, UploadId=upload, PartNumber=number, Body=numbered(5 * MIB, seed=9)
        )
    assert upload_folder(folder, bucket, "m/").sent == 12 * MIB + 2
    body = s3().get_object(**where)["Body"].read()
    assert body == (folder / "model.safetensors").read_bytes()


def test_a_model_that_is_being_replaced_is_the_old_one_where_it_is_cached_and_an_error_else(
    folder: Path, bucket: str, tmp_path: Path, requests_seen: RequestLog
) -> None:
    reference = f"s3://{bucket}/m/"
    upload_folder(folder, bucket, "m/")
    old = contents(resolve(reference, cache_dir=str(tmp_path / "one")))
    (folder / "config.json").write_bytes(b'{"new": 1}')
    seen: list[Any] = []

    def in_between(line: str) -> None:
        if UPLOAD_MANIFEST in line and "PUT" in line and not seen:
            seen.append(contents(resolve(reference, cache_dir=str(tmp_path / "one"))))
            with pytest.raises(ConfigError, match="not complete"):
                resolve(reference, cache_dir=str(tmp_path / "other"))
            seen.append("refused")

    requests_seen.on_request = in_between
    upload_folder(folder, bucket, "m/")
    requests_seen.on_request = None
    assert seen == [old, "refused"]
    for cache in ("one", "other"):
        assert contents(resolve(reference, cache_dir=str(tmp_path / cache))) == contents(folder)


def test_objects_of_an_earlier_model_are_named_and_not_served(folder: Path, bucket: str) -> None:
    s3().put_object(Bucket=bucket, Key="m/model-00009-of-00009.safetensors", Body=b"old")
    report = upload_folder(folder, bucket, "m/")
    assert report.others == ("m/model-00009-of-00009.safetensors",)
    served = contents(resolve(f"s3://{bucket}/m/", cache_dir=os.environ["CACHE_DIR"]))
    assert served == contents(folder)


def test_a_link_is_not_uploaded(folder: Path, bucket: str) -> None:
    (folder / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="symbolic link"):
        upload_folder(folder, bucket, "m/")
    assert keys(bucket) == set()


def test_an_upload_over_a_line_that_breaks_names_the_destination(
    folder: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FlakyProxy(os.environ["AWS_ENDPOINT_URL"], faults=10**6, limit=0, match=b"PUT")
    direct = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(ConfigError, match=rf"cannot upload s3://{bucket}/m/: S3 cannot be reached"):
        upload_folder(folder, bucket, "m/")
    proxy.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    with pytest.raises(ConfigError, match="there is no bucket 'absent-bucket'"):
        upload_folder(folder, "absent-bucket", "m/")


# --- end to end --------------------------------------------------------------------------------


def run_script(*arguments: str) -> Result:
    """The script in this process: its start, torch and transformers, takes longer than it does."""
    path = ROOT / "scripts" / "merge_and_upload.py"
    spec = importlib.util.spec_from_file_location("merge_and_upload_script", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    environment = {"HF_TOKEN": "hf_secret123", "COLUMNS": "200"}
    return CliRunner().invoke(script.app, list(arguments), env=environment)


def served(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str) -> Any:
    monkeypatch.setenv("MODEL_NAME", name)
    monkeypatch.setenv("CACHE_DIR", str(cache))
    monkeypatch.setenv("DEVICE", "cpu")
    return load_generator(load_settings())


def test_the_script_merges_uploads_and_the_server_loads_it_from_there(
    models: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = str(models / "org__model-run")
    dry = run_script(adapter, "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert f"s3://{bucket}/merged-models/org__model-run/" in dry.stderr
    assert keys(bucket) == set()
    done = run_script(adapter, "--max-shard-size", "100KB")
    assert done.exit_code == 0, done.stderr
    assert f"MODEL_S3_BUCKET={bucket} MODEL_NAME=org__model-run" in done.stderr
    assert "hf_secret123" not in dry.stdout + dry.stderr + done.stdout + done.stderr
    there = keys(bucket, "merged-models/org__model-run/")
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= there
    assert sum(name.endswith(".safetensors") for name in there) > 1
    assert not list((tmp_path / "cache" / "merged").glob("*/"))  # nothing is kept here
    for name in there:  # nothing of this machine, nothing secret
        body = s3().get_object(Bucket=bucket, Key=f"merged-models/org__model-run/{name}")
        assert not any(w in body["Body"].read() for w in (b"hf_secret123", str(models).encode()))

    engine = served(monkeypatch, tmp_path / "serving", "org__model-run")
    assert engine.name == "org__model-run"
    monkeypatch.setenv("MODEL_PATH", adapter)
    local = load_generator(load_settings())
    expected = local.generate([TEXT], [GREEDY])[0].text
    assert engine.generate([TEXT], [GREEDY])[0].text == expected
    monkeypatch.setenv("MODEL_PATH", str(models / "base"))
    base = load_generator(load_settings())
    assert base.generate([TEXT], [GREEDY])[0].text != expected


def test_adapter_and_base_may_be_in_s3(
    models: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("adapters/org__a", "org__model-run"), ("bases/b", "base")):
        for path in (models / folder).iterdir():
            s3().upload_file(str(path), bucket, f"{name}/{path.name}")
    settings = load_settings()
    plan = plan_merge(settings, f"s3://{bucket}/adapters/org__a/", base=f"s3://{bucket}/bases/b/")
    stages: list[str] = []
    outcome = merge_and_upload(
        settings, plan, on_progress=lambda stage, done, total: stages.append(stage)
    )
    assert outcome.upload.sent == outcome.upload.size > 0
    assert {"merging", "writing", "checking what was written", "uploading"} <= set(stages)
    engine = served(monkeypatch, tmp_path / "serving", "org__a")
    assert engine.generate([TEXT], [GREEDY])[0].completion_tokens > 0


def test_a_name_and_a_folder_may_be_given(models: Path, bucket: str, tmp_path: Path) -> None:
    settings = load_settings()
    adapter = str(models / "org__model-run")
    plan = plan_merge(settings, adapter, model_name="team__v2", out=tmp_path / "kept")
    merge_and_upload(settings, plan)
    assert "config.json" in keys(bucket, "merged-models/team__v2/")
    assert (tmp_path / "kept" / "config.json").is_file()
    again = merge_and_upload(settings, plan)
    assert again.upload.sent == 0


def test_what_is_missing_is_named_before_anything_is_loaded(
    models: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = models / "org__model-run"
    absent = run_script(str(adapter), "--bucket", "absent-bucket")
    assert absent.exit_code == 1
    assert "there is no bucket 'absent-bucket'" in absent.stderr
    assert "Traceback" not in absent.stderr
    save_adapter(tmp_path / "a", models / "base", base_name="someorg/somebase")
    settings = load_settings()
    with pytest.raises(ConfigError, match=r"someorg/somebase.*hf://someorg/somebase"):
        merge_and_upload(settings, plan_merge(settings, str(tmp_path / "a")))
    with pytest.raises(ConfigError, match="no LoRA adapter"):
        plan_merge(settings, str(models / "base"), model_name="x")
    monkeypatch.delenv("MODEL_S3_BUCKET")
    with pytest.raises(ConfigError, match="MODEL_S3_BUCKET"):
        plan_merge(load_settings(), str(adapter))
    assert keys(bucket) == set()


def test_the_notebook_does_the_same(
    models: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads((ROOT / "scripts" / "merge_and_upload.ipynb").read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    monkeypatch.setenv("ADAPTER", str(models / "org__model-run"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret123")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), "cell", "exec"), namespace)
    printed = capsys.readouterr().out
    assert f"serve it with MODEL_S3_BUCKET={bucket} MODEL_NAME=org__model-run" in printed
    assert "uploading 100%" in printed
    assert "hf_secret123" not in printed
    assert "config.json" in keys(bucket, "merged-models/org__model-run/")
