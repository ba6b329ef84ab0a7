"""Callback: kills ansible-playbook, as `kill -9` does, when it comes to a task; it lists the tasks until then."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: dies
type: aggregate
short_description: Kills ansible-playbook before a task
description:
  - For tests. C(DIES_BEFORE) in the environment is the name of the task, C(DIES_LIST) a file for the names until then.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # no types
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "dies"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        with Path(os.environ["DIES_LIST"]).open("a") as file:
            file.write(f"{task.get_name()}\n")
        if task.get_name() == os.environ.get("DIES_BEFORE"):
            os.kill(os.getpid(), signal.SIGKILL)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)
