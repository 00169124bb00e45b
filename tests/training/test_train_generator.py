"""What a training run of a generator is planned from: options, data in the server's own tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from serve_app.core.errors import ConfigError, InvalidInput
from serve_app.core.settings import load_settings
from serve_app.generation.causal.prompts import Prompter
from serve_app.offline.calibration import Pair
from serve_app.training.generator.data import NOT_TRAINED, Examples, prepare
from serve_app.training.generator.run import plan_training
from tests.support.generator_runs import PAIRS, options, save_base, save_corpus
from tests.support.scripts import load_script
from tests.support.tiny_models import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_WITHOUT_SYSTEM,
    make_tokenizer,
    save_adapter,
)

SYSTEM, PREFIX = "Be plain.", "Text: "
ROWS = [Pair(number, source, target) for number, (source, target, _) in enumerate(PAIRS, 1)]
TEMPLATES = {"chat": CHAT_TEMPLATE, "no system": CHAT_TEMPLATE_WITHOUT_SYSTEM, "none": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    save_corpus(folder / "pairs.csv")
    return folder


def prepared(tokenizer: Any, pairs: list[Pair] | None = None, **changed: Any) -> Examples:
    usual: dict[str, Any] = {"max_length": 400, "max_new_tokens": 20}
    return prepare(
        ROWS if pairs is None else pairs,
        tokenizer,
        system_prompt=SYSTEM,
        user_prefix=PREFIX,
        **(usual | changed),
    )


# --- data -------------------------------------------------------------------------------


@pytest.mark.parametrize("template", list(TEMPLATES.values()), ids=list(TEMPLATES))
def test_both_stages_read_the_tokens_the_server_reads(template: str | None) -> None:
    tokenizer = make_tokenizer(template)
    prompter = Prompter(tokenizer, system_prompt=SYSTEM, user_prefix=PREFIX)
    examples = prepared(tokenizer)
    assert [one.row for one in examples.used] == [1, 2, 3]
    for pair, supervised, reinforced in zip(
        ROWS, examples.sft_rows(), examples.grpo_rows(), strict=True
    ):
        expected = prompter.encode(pair.source)
        trained = [label for label in supervised["labels"] if label != NOT_TRAINED]
        assert supervised["input_ids"] == [*expected, *trained]
        assert supervised["labels"][: len(expected)] == [NOT_TRAINED] * len(expected)
        assert trained[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(trained[:-1]) == pair.target
        prompt = reinforced["prompt"]
        if template is None:
            assert tokenizer(prompt)["input_ids"] == expected
        else:
            ids = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=True
            )
            assert ids["input_ids"] == expected
        assert reinforced["original"] == pair.source


def test_a_control_token_typed_in_a_text_is_none() -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    pairs = [Pair(1, "Stop<|eot_id|> here.", "It<|end|> stops.")]
    (example,) = prepared(tokenizer, pairs).used
    clean = prepared(tokenizer, [Pair(1, "Stop here.", "It stops.")]).used[0]
    special = set(tokenizer.all_special_ids)
    assert [one for one in example.prompt_ids if one in special] == [
        one for one in clean.prompt_ids if one in special
    ]
    assert [one for one in example.target_ids if one in special] == [tokenizer.eos_token_id]


def test_rows_that_are_too_long_are_left_out_and_named() -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    pairs = [*ROWS, Pair(4, "word " * 400, "A word."), Pair(5, "A text.", "word " * 400)]
    examples = prepared(tokenizer, pairs)
    assert examples.reasons == {"it is longer than 400 tokens": [4, 5]}
    assert [one.row for one in examples.used] == [1, 2, 3]
    longest = max(len(one.prompt_ids) for one in examples.used)
    assert prepared(tokenizer, max_length=longest + 20).left_out == ()
    assert prepared(tokenizer, max_length=longest + 19).left_out != ()


def test_no_row_that_fits_is_an_error_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"no row can be trained on \(of 3 rows: it is longer"):
        prepared(make_tokenizer(CHAT_TEMPLATE), max_length=21)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no eos_token"):
        prepared(tokenizer)


def test_a_template_that_writes_something_else_is_not_trained_on() -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    # What is added to a short text and to no other is not seen by rendering one marker.
    tokenizer.chat_template = CHAT_TEMPLATE.replace(
        "{{ message['content'] | trim }}",
        "{{ message['content'] | trim | replace('pain', 'ache') }}",
    )
    examples = prepared(tokenizer)
    assert examples.reasons == {"the chat template writes it unlike the served generator": [3]}


def test_texts_and_tokenizer_make_the_fingerprint() -> None:
    tokenizer = make_tokenizer(CHAT_TEMPLATE)
    one = prepared(tokenizer).fingerprint
    assert prepared(tokenizer).fingerprint == one
    assert prepared(tokenizer, ROWS[:2]).fingerprint != one
    assert prepared(make_tokenizer(None)).fingerprint != one


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": ()}, "stages must be"),
        ({"rank": 0}, "--rank must be at least 1"),
        ({"grpo_learning_rate": 0.0}, "--grpo-learning-rate must be above 0"),
        ({"temperature": float("nan")}, "--temperature must be above 0"),
        ({"num_generations": 1}, "--num-generations must be at least 2"),
        ({"beta": -1.0}, "--beta at least 0"),
        ({"max_new_tokens": 512}, "leaves no room for a prompt"),
        ({"target_modules": ()}, "--target-modules"),
        ({"log_to": "paper"}, "--log-to must be none, tensorboard, mlflow"),
    ],
)
def test_an_option_out_of_range_is_named(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, **changed)


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="sum to 1"):
        options(tmp_path, weights=[1.0, 1.0, 0.0, 0.0, 0.0])


def test_a_step_holds_whole_groups(tmp_path: Path) -> None:
    chosen = options(tmp_path, grpo_batch=3, num_generations=4, accumulation=2)
    assert chosen.prompts_a_step(2) == 3
    with pytest.raises(ConfigError, match=r"6 completions .*no multiple of --num-generations 4"):
        chosen.prompts_a_step(1)


# --- the plan ---------------------------------------------------------------------------


def test_a_plan_says_what_will_be_done_and_writes_nothing(base: Path) -> None:
    plan = plan_training(load_settings(), options(base, eval_split="test", sft_batch=1))
    assert plan.steps == {"sft": 4, "grpo": 2}
    assert [one.row for one in plan.examples.used] == [1, 2]
    assert [pair.source for pair in plan.to_judge] == [PAIRS[2][0]]
    assert plan.context == 512
    assert plan.base_name == str((base / "org__base").resolve())
    assert not plan.options.out.exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_tables_give_what_csv_gives(base: Path, tmp_path: Path, kind: str) -> None:
    rows = [dict(zip(("source_text", "target_text", "split"), pair, strict=True)) for pair in PAIRS]
    path = tmp_path / f"pairs.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    settings = load_settings()
    csv_plan = plan_training(settings, options(base))
    plan = plan_training(settings, options(base, data=str(path)))
    assert plan.examples.fingerprint == csv_plan.examples.fingerprint


def test_data_that_cannot_be_used_is_explained(base: Path, tmp_path: Path) -> None:
    settings = load_settings()
    empty = save_corpus(tmp_path / "empty.csv", [("A text.", "", "train")])
    with pytest.raises(ConfigError, match=r"target_text, row 1: the text is empty"):
        plan_training(settings, options(base, data=str(empty)))
    with pytest.raises(ConfigError, match="'dev' in none of its 3 rows"):
        plan_training(settings, options(base, eval_split="dev"))
    with pytest.raises(ConfigError, match="longer than 60 tokens"):
        plan_training(settings, options(base, max_length=60))


def test_a_base_that_is_an_adapter_or_no_model_is_explained(base: Path, tmp_path: Path) -> None:
    settings = load_settings()
    adapter = save_adapter(tmp_path / "adapter", base / "org__base")
    with pytest.raises(ConfigError, match="is a LoRA adapter; give the whole model"):
        plan_training(settings, options(base, base=str(adapter)))
    with pytest.raises(ConfigError, match="no LoRA adapter"):
        plan_training(settings, options(base, adapter=base / "org__base"))
    with pytest.raises(ConfigError, match="org/absent"):
        plan_training(settings, options(base, base="org/absent"))


def test_a_folder_with_something_in_it_is_not_written_to(base: Path, tmp_path: Path) -> None:
    settings = load_settings()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; --resume"):
        plan_training(settings, options(base, out=tmp_path))
    with pytest.raises(ConfigError, match="holds no run"):
        plan_training(settings, options(base, out=tmp_path), resume=True)


# --- the script -------------------------------------------------------------------------


def run_script(*arguments: object) -> Result:
    app = load_script("train_generator").app
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = [*PAIRS, ("word " * 600, "A word.", "train"), PAIRS[0]]
    data = save_corpus(tmp_path / "pairs.csv", long)
    done = run_script(
        data, "--base", base / "org__base", "--eval-split", "test", "--max-new-tokens", 24,
        "--grpo-batch", 4, "--num-generations", 2, "--accumulation", 1, "--dry-run",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    shown = done.stderr
    assert "3 rows" in shown
    assert "left out, 1 row: it is longer than 512 tokens (row 4)" in shown
    assert "in more than one row: 1 original" in shown
    assert "2 prompts x 2 completions of up to 24 tokens" in shown
    assert "outputs/org__base-sft-grpo" in shown
    assert "nothing was trained or written" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_the_script_says_what_is_wrong_in_one_line(base: Path) -> None:
    done = run_script(base / "absent.csv", "--base", base / "org__base")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert "absent.csv" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = run_script(base / "pairs.csv", "--base", base / "org__base", "--log-to", "paper")
    assert wrong.exit_code == 2
