"""The action plugins that a survey may spare a program: Ansible finds each by its name, and all say the same."""

from __future__ import annotations

import ast

from tests.plugins.support import PLUGINS


def test_they_are_equal_but_for_the_modules_name() -> None:
    paths = [each for each in (PLUGINS / "action").glob("*.py") if "SurveyedAction" in each.read_text()]
    assert len(paths) > 1
    assert len({each.read_text().replace(each.stem, "NAME") for each in paths}) == 1


def test_each_module_that_believes_a_survey_has_one() -> None:
    sources = {each.stem: each.read_text() for each in (PLUGINS / "modules").glob("*.py")}
    believing = {
        name
        for name, text in sources.items()
        if any(isinstance(node, ast.Name) and node.id == "SEEN" for node in ast.walk(ast.parse(text)))
    }
    actions = {each.stem for each in (PLUGINS / "action").glob("*.py") if "SurveyedAction" in each.read_text()}
    assert actions == believing
