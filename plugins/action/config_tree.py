# Copyright: teams-sbc contributors
"""Renders a directory of templates with Ansible's own engine and hands it to the module config_tree in one task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises AnsibleActionFail when src is no directory or one of its templates cannot be rendered, naming it."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not arguments.get("src"):
            raise AnsibleActionFail("src is missing: the directory of templates")
        if "files" in arguments:
            raise AnsibleActionFail("files is filled in from src; leave it out")
        source = Path(self._find_needle("templates", arguments["src"]))
        if not source.is_dir():
            raise AnsibleActionFail(f"src = {source}: not a directory")
        arguments["files"] = self._render(source, task_vars)
        arguments["src"] = str(source)
        result.update(self._execute_module(module_name="config_tree", module_args=arguments, task_vars=task_vars))
        return result

    def _render(self, source: Path, task_vars: dict[str, Any]) -> dict[str, str]:
        variables = {"ansible_managed": "Ansible managed"} | task_vars
        templar = self._templar.copy_with_new_env(searchpath=[str(source)], available_variables=variables)
        files = {}
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            if not path.is_file() or any(part.startswith(".") for part in name.parts):
                continue
            try:
                text = trust_as_template(path.read_text(encoding="utf-8"))
                content = templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True})
            except (AnsibleError, UnicodeDecodeError) as error:
                raise AnsibleActionFail(f"{path}: {error}") from error
            # A file that is one expression and nothing else keeps the expression's type.
            files[str(name)] = content if isinstance(content, str) else str(content)
        return files
