"""Merging, uploading to moto's S3, and the served engine loading the model from there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from serve_app.core.errors import ConfigError
from serve_app.core.settings import load_settings
from serve_app.generation.loading import load_generator
from serve_app.training.merge import merge_and_upload, plan_merge
from tests.support.paths import ROOT
from tests.support.tiny_models import save_adapter
from tests.training.merge.bucket import GREEDY, TEXT, keys, s3


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
