"""What is loaded from a directory of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from serve_app.models.pretrained import load_pretrained
from serve_app.storage.artifacts import embedded_path


def test_an_adapter_left_in_the_folder_of_an_encoder_is_not_loaded(tmp_path: Path) -> None:
    whole = embedded_path("all-MiniLM-L6-v2")
    for path in whole.iterdir():
        (tmp_path / path.name).symlink_to(path)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someorg/gone", "r": 2}
    adapter["target_modules"] = ["query"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    encoder, missing = load_pretrained(tmp_path, "cannot load")
    plain, _ = load_pretrained(whole, "cannot load")
    assert missing == []
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(encoder.state_dict()[k], v) for k, v in plain.state_dict().items())
