"""tests/layer_rules.toml: every rule of layers is held by tests that exist."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import make_corpus

TESTS = Path(__file__).parent.parent
RULES: list[dict[str, Any]] = tomllib.loads((TESTS / "layer_rules.toml").read_text())["rule"]


@cache
def names_of_tests(*paths: Path) -> frozenset[str]:
    """Names of all test functions in these files, without ``test_``."""
    return frozenset(
        node.name.removeprefix("test_")
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["id"])
def test_rule_has_tests_that_exist(rule: dict[str, Any]) -> None:
    assert rule["title"] and rule["tests"]
    assert not [name for name in rule["tests"] if name not in names_of_tests(*sorted(TESTS.rglob("test_*.py")))]
    cases = {case.name for case in make_corpus.cases()}
    assert not [name for name in rule.get("corpus", []) if name not in cases]


def test_rules_are_numbered_in_order() -> None:
    numbers = [tuple(map(int, rule["id"].split("."))) for rule in RULES]
    assert numbers == sorted(set(numbers))
    assert {section for section, _ in numbers} == set(range(8))


def test_every_test_of_the_rules_is_in_the_index() -> None:
    indexed = {name for rule in RULES for name in rule["tests"]}
    assert not names_of_tests(TESTS / "unit" / "test_layer_rules.py") - indexed


def test_tests_of_the_rules_run_on_both_engines() -> None:
    """Or compare the two."""
    tree = ast.parse((TESTS / "unit" / "test_layer_rules.py").read_text())
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert not [node.name for node in tests if "engine" not in {argument.arg for argument in node.args.args}]
