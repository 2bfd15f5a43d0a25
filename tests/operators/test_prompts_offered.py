"""What an operator puts into its prompts is what their headers say, so that users can take it into theirs."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import gristmill.operators
from gristmill.llm.prompt import load_prompt
from gristmill.operators.operator import registered


def test_every_field_that_an_operator_offers_is_declared_in_one_of_its_prompts() -> None:
    declared: dict[str, set[str]] = defaultdict(set)
    for op in registered().values():
        if op.module.startswith("gristmill.operators."):
            for template in map(load_prompt, op.prompts):
                declared[Path(op.path).name] |= {*template.fields, *template.also}
    offered: dict[str, set[str]] = defaultdict(set)
    for file in Path(gristmill.operators.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "prompt":
                offered[file.name] |= {keyword.arg for keyword in node.keywords if keyword.arg}
    assert "ask.py" in offered
    assert {name: fields - declared[name] for name, fields in offered.items() if fields - declared[name]} == {}
