"""The list of mutants fits the modules: each text is found once. make mutants runs the tests with each."""

from __future__ import annotations

import ast

import pytest
from conftest import TESTS
from mutants import API, CHECKOUT, MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_text_of_a_mutant_is_found_once_and_what_takes_its_place_is_python(mutant):
    source = (CHECKOUT / API / mutant.file).read_text("utf-8")
    assert ast.dump(ast.parse(mutant.of(source))) != ast.dump(ast.parse(source))


def test_every_mutant_has_a_name_of_its_own_and_tests_that_exist():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    for mutant in MUTANTS:
        assert all((TESTS / f"test_{name}.py").is_file() for name in mutant.tests.split()), mutant.name
