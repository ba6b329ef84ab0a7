"""Action plugin: a certificate that the customer brings along, from files of the controller to Kamailio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# The setting module_utils counts for modules only; here the plugin sees to it that they are found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.certificate_rules import load, place
from ansible.module_utils.saved_certificates import SavedError, unseen


class ActionModule(ActionBase):  # type: ignore[misc]  # no types
    _supports_check_mode = True
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "chain": {"type": "str", "required": True},
                "key": {"type": "str", "required": True, "no_log": False},
                "base": {"type": "path", "required": True},
                "password_file": {"type": "path", "required": True, "no_log": False},
                "target": {"type": "path", "required": True},
                "reload": {"type": "str", "required": True},
            }
        )
        contents = {}
        for part in ("chain", "key"):
            try:
                read = load(arguments, part, arguments["base"], self._loader, arguments["password_file"])
                contents[part] = read.decode("ascii")
            except (SavedError, UnicodeDecodeError) as error:
                raise AnsibleActionFail(f"{place(arguments, part, arguments['base'])}: {error}") from None
        chain, key = (f"{arguments['target']}/{name}.pem" for name in ("fullchain", "privkey"))
        files = [
            # The key first, as certbot's deploy hook does: Kamailio reads both when it is told to.
            {"path": key, "content": contents["key"], "owner": "kamailio", "group": "kamailio", "mode": "0400"},
            {"path": chain, "content": contents["chain"], "owner": "root", "group": "kamailio", "mode": "0640"},
            # What that hook could not finish is of no account any more.
            {"path": f"{chain}.due"},
        ]
        apply = [{"command": arguments["reload"], "paths": [key, chain]}]
        return dict(unseen(self, task_vars, "files", {"files": files, "apply": apply}))
