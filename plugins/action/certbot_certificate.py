"""Action plugin: before a certificate is asked for, the controller's copy is brought back and the asking is noted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.certbot_lineage import Entries, accounts, describe, directory_of, is_staging, leaf
from ansible.module_utils.saved_certificates import (
    PASSWORD_MADE,
    Saved,
    SavedError,
    age,
    ask_droplet,
    date,
    fetch,
)

MODULE = "certbot_certificate"


def judge(saved: Saved, found: Entries, given: dict[str, Any]) -> tuple[bool, str]:
    """Whether the copy is what would be asked for, and what there is to say of it."""
    known, now = saved.known(), time.time()
    name, names = known.get("name", given["name"]), sorted(each.lower() for each in given["names"])
    about, directory = describe(leaf(found, name)), directory_of(found, name)
    ends = date(about["not_after"])
    old = f"a copy that was last compared with the droplet {age(saved.seen(), now)} ago"
    if name != given["name"] or about["names"] != names:
        wrong = f"is for {', '.join(about['names'])}, not for {', '.join(names)}"
    elif directory != given["directory"] and not (is_staging(given["directory"]) and not is_staging(directory)):
        wrong = f"is from {directory}, not from {given['directory']}"
    elif about["not_after"] <= now:
        wrong = f"ended on {ends}"
    else:
        return True, (
            f"the certificate is brought back from {old}; it ends on {ends}. If the former droplet renewed it since,"
            " that renewal is lost, and certbot's timer will renew this one when it is due."
        )
    return False, f"the saved certificate {wrong}: only the ACME account is brought back, from {old}."


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        given = dict(self._task.args)
        try:
            saved = Saved(given["state_dir"], task_vars["inventory_hostname"], given["password_file"], self._loader)
            return self._certify(saved, given, task_vars)
        except KeyError as error:
            raise AnsibleActionFail(f"{error.args[0]} is missing") from None
        except SavedError as error:
            raise AnsibleActionFail(str(error)) from None

    def _certify(self, saved: Saved, given: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Look; bring the copy back and look again if there is nothing; ask if that will not do; save what is new."""
        name, messages = given["name"], []
        look = self._module(given, task_vars, ask=False)
        restored = False
        if look.get("reasons") and not look["present"] and (found := saved.load(name)):
            fits, message = judge(saved, found, given)
            restored = fits
            messages.append(message)
            if not self._task.check_mode:
                files = found if fits else accounts(found)
                if files:
                    ask_droplet(self, task_vars, name, restore=files)
                if fits:
                    look = self._module(given, task_vars, ask=False) | {"changed": True}
            elif fits:
                look |= {"issued": False, "reasons": []}
        if look.get("failed"):
            return look
        due, warnings = bool(look["reasons"]), []
        if not self._task.check_mode and (due or not saved.vault.exists()):
            if saved.ready():
                warnings.append(PASSWORD_MADE.format(file=saved.password_file))
            if due:
                # Before the asking: a run that is killed meanwhile may have used up one of the authority's few.
                saved.ask(time.time(), [name.lower() for name in given["names"]], given["directory"])
                look = self._module(given, task_vars, ask=True)
                if look.get("failed"):
                    if not look.get("asked", True):
                        saved.withdraw()
                    return look | self._rescue(saved, name, task_vars)
            fetch(self, task_vars, saved, name)
        for message in messages:
            self._display.display(f"{task_vars['inventory_hostname']}: {message}", color=constants.COLOR_CHANGED)
        more = {"restored": restored, "msg": " ".join(messages)} if messages else {"restored": restored}
        return look | more | {"warnings": [*look.get("warnings", []), *warnings]}

    def _rescue(self, saved: Saved, name: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Save what was issued although something failed afterwards, such as its installation."""
        try:
            fetch(self, task_vars, saved, name)
        except (SavedError, AnsibleActionFail) as error:
            return {"warnings": [f"the certificate could not be saved either: {error}"]}
        return {}

    def _module(self, given: dict[str, Any], task_vars: dict[str, Any], ask: bool) -> dict[str, Any]:
        result = self._execute_module(module_name=MODULE, module_args=given | {"ask": ask}, task_vars=task_vars)
        return dict(result)
