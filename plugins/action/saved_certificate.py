"""Action plugin: the controller's copy of a droplet's certificate, kept up to date."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.saved_certificates import PASSWORD_MADE, Saved, SavedError, ask_droplet, fetch


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "name": {"type": "str", "required": True},
                "state_dir": {"type": "path", "required": True},
                "password_file": {"type": "path", "required": True, "no_log": False},
                "strict": {"type": "bool", "default": True},
            }
        )
        saved = Saved(arguments["state_dir"], task_vars["inventory_hostname"], arguments["password_file"], self._loader)
        # One question to the droplet where nothing is new; the files themselves come in a second one.
        answer = ask_droplet(self, task_vars, arguments["name"])
        result: dict[str, Any] = {"changed": False, "present": bool(answer["digest"]), "problem": None}
        try:
            result |= self._refresh(saved, arguments["name"], answer, task_vars)
        except (SavedError, AnsibleActionFail) as error:
            if arguments["strict"]:
                raise AnsibleActionFail(str(error)) from None
            result |= {"same": False, "problem": str(error)}
        return result

    def _refresh(self, saved: Saved, name: str, answer: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        changed, warnings = False, []
        if not self._task.check_mode:
            if saved.matches(answer["digest"]):
                saved.confirm(answer["issued"], time.time())
            elif answer["digest"]:
                if saved.ready():
                    warnings.append(PASSWORD_MADE.format(file=saved.password_file))
                changed = fetch(self, task_vars, saved, name)
        return {
            "changed": changed,
            "same": changed or saved.matches(answer["digest"]),
            "saved_at": saved.known().get("saved_at"),
            "warnings": warnings,
        }
