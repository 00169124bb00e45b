"""Tiny causal models made on the spot: random weights, a real byte-level tokenizer.

No test data is downloaded. The weights are drawn wide enough that greedy output varies
from step to step, which a freshly initialised model's does not.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = [
    "<|begin|>",
    "<|end|>",
    "<|pad|>",
    "<|header|>",
    "<|eot_id|>",
    "<|sentence_end|>",
]

CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}<|header|>{{ message['role'] }}\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant\n\n{% endif %}"
)

CHAT_TEMPLATE_WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}" + CHAT_TEMPLATE
)

CORPUS = [
    "The trial included 120 adults with type 2 diabetes, followed for six months.",
    "Patients who took the medicine had fewer heart attacks than those who took a placebo.",
    "We found no clear difference in pain between the two groups; the evidence is weak.",
    "Side effects were rare: headache, nausea and a raised temperature (38.5 °C).",
    "Write a plain-language summary of this text. You rewrite medical text.",
]


def make_tokenizer(chat_template: str | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any Unicode text in, the same text out."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|header|>", "<|eot_id|>", "<|sentence_end|>"],
        **options,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_llama(tokenizer: Any, *, seed: int = 0, context: int = 256) -> LlamaForCausalLM:
    """A two-layer Llama with random weights; special tokens are never its first choice."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.25)
        # A zero row has logit 0 whatever comes before: below the best, never chosen greedily.
        model.lm_head.weight[tokenizer.all_special_ids] = 0.0
    return model


def save_model(
    directory: Path,
    *,
    chat_template: str | None = None,
    seed: int = 0,
    context: int = 256,
) -> Path:
    """Writes a whole model with its tokenizer into `directory`."""
    tokenizer = make_tokenizer(chat_template)
    make_llama(tokenizer, seed=seed, context=context).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_adapter(directory: Path, base: Path, *, base_name: str | None = None) -> Path:
    """Writes a LoRA adapter, with weights that change the output, for the model in `base`.

    `base_name` is what its configuration calls the base; unset: the path of `base`.
    """
    torch.manual_seed(7)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero when new: the adapter would do nothing
                parameter.normal_(0.0, 0.3)
    model.peft_config["default"].base_model_name_or_path = base_name or str(base)
    model.save_pretrained(directory)
    return directory


def speak(model: LlamaForCausalLM, token_ids: list[int]) -> None:
    """Makes `model` write each of `token_ids` after the one before it, whatever came earlier.

    The first id is the last token of the prompt; what follows is what the model writes.
    Ids must differ from one another: the model becomes a table of successors.
    """
    assert len(set(token_ids)) == len(token_ids), "a successor table needs distinct tokens"
    torch.manual_seed(1)
    vocabulary, width = model.lm_head.weight.shape
    codes = torch.nn.functional.normalize(torch.randn(vocabulary, width), dim=1)
    head = torch.zeros(vocabulary, width)
    for before, after in itertools.pairwise(token_ids):
        head[after] = 4 * codes[before]
    with torch.no_grad():
        for layer in model.model.layers:  # nothing is added to the residual stream
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(codes)
        model.lm_head.weight.copy_(head)
