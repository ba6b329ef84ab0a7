"""The modules that believe a survey, without a program of their own where it shows that nothing is to be done."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.digitalocean import LIBRARY_ERROR, in_order, shared
from ansible.plugins.action import ActionBase

MODULES = Path(__file__).resolve().parents[1] / "modules"


@dataclass
class Look:
    """What a module's work needs of an AnsibleModule as long as it only looks."""

    params: dict[str, Any]
    check_mode: bool
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class SurveyedAction(ActionBase):  # type: ignore[misc]  # no types
    """Runs the module of its name, unless the survey in its argument shows that nothing is to be done.

    A program for each customer and module costs the controller half a second, which is what a fleet waits for.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        result: dict[str, Any] | None = self._look() if self._task.args.get("seen") and not LIBRARY_ERROR else None
        if result is None:
            result = self._execute_module(task_vars=task_vars)
        return result

    def _look(self) -> dict[str, Any] | None:
        name = self._task.action.rpartition(".")[2]
        spec = importlib.util.spec_from_file_location(name, MODULES / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arguments = module.arguments()
        try:
            _, params = self.validate_argument_spec(**arguments | {"argument_spec": shared(arguments["argument_spec"])})
        except AnsibleError:
            # The module says what is wrong with them.
            return None
        look = Look(params, self._task.check_mode)
        try:
            result: dict[str, Any] | None = in_order(look, module.work)
        except ValueError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        return result and result | ({"warnings": look.warnings} if look.warnings else {})
