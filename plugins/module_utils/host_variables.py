"""The variables of a play's hosts for an action plugin that runs once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleError


def customers_of(task_vars: dict[str, Any], group: str) -> list[str]:
    """The play's hosts that are in the group, in the play's order."""
    members = set(task_vars["groups"].get(group, []))
    return [host for host in task_vars["ansible_play_hosts_all"] if host in members]


def defaults_of(action: Any, files: Iterable[str]) -> dict[str, Any]:
    """What YAML files beside the playbook say, untemplated; a later one wins over an earlier one."""
    defaults: dict[str, Any] = {}
    for file in files:
        defaults |= action._loader.load_from_file(action._find_needle("vars", file), trusted_as_template=True) or {}
    return defaults


def evaluated(
    action: Any, variables: dict[str, Any], names: Iterable[str]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The values of those names, as a task of that host would see them; and what has none, with the reason."""
    templar = action._templar.copy_with_new_env(available_variables=variables)
    values, problems = {}, []
    for name in names:
        if name in variables:
            try:
                values[name] = templar.template(variables[name])
            except AnsibleError as error:
                problems.append((name, str(error)))
    return values, problems
