"""Prompt files and how they are filled in."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill import llm
from gristmill.errors import UsageError
from gristmill.llm.prompt import load_prompt, parse_prompt

FILE = (
    "---\nname: greet\nversion: 2\nfields: who, what\n---\n"
    "# system\nBe {kind}.\n# user\nTell {who} {what}: {{who}} {0}\n"
)


def test_only_declared_fields_are_replaced_and_every_other_brace_is_text() -> None:
    prompt = parse_prompt(FILE).render(who="Ada", what="{who} and {what} and {{}} and }{")
    system, user = prompt.messages
    assert (system.role, system.content) == ("system", "Be {kind}.")
    assert user.content == "Tell Ada {who} and {what} and {{}} and }{: {Ada} {0}"
    assert prompt.fields == {"who": "Ada", "what": "{who} and {what} and {{}} and }{"}


@pytest.mark.parametrize("fields", [{}, {"who": "a"}, {"who": "a", "what": "b", "more": "c"}])
def test_a_missing_or_unknown_field_is_an_error(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="greet") as caught:
        parse_prompt(FILE).render(**fields)
    assert "who, what" in caught.value.hint


def test_the_fingerprint_follows_the_text_and_not_the_line_ends() -> None:
    first = parse_prompt(FILE).fingerprint()
    assert len(first) == 32
    assert parse_prompt(FILE.replace("\n", "\r\n")).fingerprint() == first
    assert parse_prompt(FILE.replace("Tell", "Say to")).fingerprint() != first


@pytest.mark.parametrize(
    "text",
    ["", "no header", "---\nname: x\n---\n# user\nhi", "---\nname: x\nversion: 1\n---\nhi",
     "---\nname: x\nversion: 1\nfields: unused\n---\n# user\nhi"],
)  # fmt: skip
def test_a_file_that_is_no_prompt_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_prompt(text)


def test_the_built_in_prompts_take_the_fields_that_the_operators_give() -> None:
    assert load_prompt("ask").fields == ("passage", "count", "language")
    assert load_prompt("answer").fields == ("question", "passage")
    shown = load_prompt("ask").render(passage="A {b} c", count=3, language="en").messages[-1].content
    assert "Write 3 questions" in shown
    assert "<passage>\nA {b} c\n</passage>" in shown


def test_a_language_without_its_own_prompt_gets_the_english_one() -> None:
    assert load_prompt("ask", "fr-CA") == load_prompt("ask", "en")


def test_every_prompt_is_there_in_three_languages_with_the_same_fields() -> None:
    folder = Path(llm.__path__[0]) / "prompts"
    names = {code: {file.stem for file in (folder / code).glob("*.md")} for code in ("en", "zh", "tr")}
    assert names["en"] == names["zh"] == names["tr"]
    for name in names["en"]:
        english = load_prompt(name)
        for code in ("zh", "tr"):
            other = parse_prompt((folder / code / f"{name}.md").read_text("utf-8"))
            assert (other.name, set(other.fields), set(other.also)) == (name, set(english.fields), set(english.also))
            assert [role for role, _ in other.parts] == [role for role, _ in english.parts]
    assert load_prompt("ask", "zh-CN") == load_prompt("ask", "zh") != load_prompt("ask")


def test_a_user_s_own_prompt_wins(tmp_path: Path) -> None:
    (tmp_path / "tr").mkdir()
    (tmp_path / "tr" / "ask.md").write_text(FILE.replace("greet", "ask"), "utf-8")
    assert load_prompt("ask", "tr", folder=tmp_path).version == 2
    assert load_prompt("ask", "en", folder=tmp_path).fields == ("passage", "count", "language")


@pytest.mark.parametrize("name", ["aks", "../../../etc/passwd", "en/ask", ""])
def test_a_prompt_that_does_not_exist_is_an_error_with_the_nearest_name(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_prompt(name)
    assert "ask" in caught.value.hint
