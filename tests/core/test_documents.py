"""JSON and YAML are read strictly: what would be lost or guessed is refused, the rest is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.documents import parse_json, read_json, read_text, read_yaml
from tests.support.paths import ROOT


def test_the_projects_own_documents_are_read_as_ever() -> None:
    for path in (ROOT / "serve_config.yaml", ROOT / "helm" / "plainmed" / "values.yaml"):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_aliases_and_merged_keys_are_read_where_they_do_not_multiply(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\nlist: [*base, *base]\n")
    found = read_yaml(path)
    assert found["other"] == {"a": 1, "b": 3}
    assert found["list"] == [{"a": 1, "b": 2}] * 2


def test_a_byte_order_mark_is_no_part_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_a_document_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 100)
    assert read_text(path, 100) == "x" * 100
    with pytest.raises(ValueError, match="larger than 99 bytes"):
        read_text(path, 99)


def test_other_programs_may_write_what_json_does_not_have() -> None:
    assert parse_json('{"limit": Infinity, "limit": 1}', strict=False) == {"limit": 1}
    for text in ('{"limit": Infinity}', '{"a": {"limit": [1, [NaN]]}}', "[[-Infinity]]", "1e400"):
        with pytest.raises(ValueError, match="finite"):
            parse_json(text)


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '["a", ["\\udfff"]]', '{"a": {"b": "\\ud83d"}}', '{"\\ud800": 1}']
)
def test_half_of_a_character_is_refused_unless_it_is_asked_for(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="half of a character") as caught:
        parse_json(text)
    assert str(caught.value).isascii()  # so that it can be shown
    assert parse_json(text, halves=True) == json.loads(text)
    assert parse_json(text, strict=False) == json.loads(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match="half of a character"):
        read_yaml(tmp_path / "a.yaml")
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_what_json_can_say_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
