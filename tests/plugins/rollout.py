"""A rollout's provisioning in this process: the real playbook and modules, without a process for each task.

What needs a droplet that answers over SSH is left out. A run takes a fraction of a second, so that hundreds of them can
be disturbed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from ansible import context
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.playbook.play import Play
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import action_loader, connection_loader, init_plugin_loader
from ansible.template import Templar
from ansible.utils.context_objects import CLIArgs
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from tests.plugins.support import PLUGINS, ROOT, Failed, run_module

Result = dict[str, Any]

INVENTORY = "the inventory"
# What a droplet on paper cannot do, and what concerns the terminal alone.
LEFT_OUT = {"wait_for_connection", "command", "assert", "validate_argument_spec", "debug", "meta"}


def file(path: str, state: str) -> bool:
    assert state == "absent"
    Path(path).unlink(missing_ok=True)
    return True


# The builtin modules that keep what the controller must remember, as far as they are used for that.
CONTROLLERS_FILES: dict[str, Callable[..., bool]] = {"file": file}


class Rollout:
    """playbooks/provision.yml for the one customer of an inventory. Calling it raises Failed as soon as a task fails.

    `task` is the name of what is being done, or was done last.
    """

    def __init__(self, inventory: Path) -> None:
        self.inventory, self.task = inventory, INVENTORY
        self._loader = _prepared()
        variables = VariableManager(self._loader, InventoryManager(self._loader))
        plays = Playbook.load(str(ROOT / "playbooks/provision.yml"), variables, self._loader).get_plays()
        self._tasks = [(play, task) for play in plays if "sbc" in play.hosts for task in _tasks(play)]

    def __call__(self) -> dict[str, Result]:
        """The result of each task by its name."""
        results = {}
        self.task, loader = INVENTORY, self._loader
        hosts = InventoryManager(loader, sources=[str(self.inventory)])
        (host,) = hosts.get_hosts("sbc")
        variables = VariableManager(loader, hosts)
        HostVars(hosts, variables, loader)  # puts itself into what get_vars returns
        for play, task in self._tasks:
            known = variables.get_vars(play, host, task, _hosts=[host.name], _hosts_all=[host.name])
            templar = Templar(loader, known)
            if not all(templar.evaluate_conditional(condition) for condition in task.when):
                continue
            self.task = task.get_name(include_role_fqcn=False)
            name, arguments = task.action.rpartition(".")[2], templar.template(task.args)
            if name == "set_fact":
                result: Result = {"changed": False}
                variables.set_nonpersistent_facts(host.name, dict(arguments))
            elif name in CONTROLLERS_FILES:
                result = {"changed": CONTROLLERS_FILES[name](**arguments)}
            else:
                environment = {key: value for each in templar.template(task.environment) for key, value in each.items()}
                with mock.patch.dict(os.environ, environment):
                    result = self._act(name, task, arguments, known, templar) or run_module(name, **arguments)
            # ansible-core 2.19 has a name here, later ones names with what is registered under each.
            names = [task.register] if isinstance(task.register, str) else list(task.register or ())
            variables.set_nonpersistent_facts(host.name, dict.fromkeys(names, result))
            results[self.task] = result
        return results

    def _act(self, name: str, task: Task, arguments: Any, variables: Result, templar: Templar) -> Result | None:
        """The result of the project's own action plugin of that name, if there is one."""
        if not (PLUGINS / f"action/{name}.py").exists():
            return None
        task = task.copy()
        task.args = arguments
        play_context = PlayContext()
        action = action_loader.get(
            name,
            task=task,
            connection=connection_loader.get("local", play_context),
            play_context=play_context,
            loader=self._loader,
            templar=templar,
            shared_loader_obj=None,
        )
        module = functools.partial(_module, name, arguments)
        with mock.patch.object(action, "_execute_module", module):
            result: Result = action.run(task_vars=variables)
        if result.get("failed"):
            raise Failed(result)
        return result


def _module(name: str, arguments: Result, **_: Any) -> Result:
    """What an action plugin gets that runs the module of its name."""
    return run_module(name, **arguments)


@functools.cache
def _prepared() -> DataLoader:
    """Ansible as its commands prepare it; only once in a process."""
    context.CLIARGS = CLIArgs({"tags": ("all",), "skip_tags": (), "check": False, "verbosity": 0})
    init_plugin_loader()
    return DataLoader()


def _tasks(play: Play) -> Iterator[Task]:
    """All tasks of a play that are not left out, those of its roles among them."""

    def inside(block: Block) -> Iterator[Task]:
        assert not block.rescue, f"{block}: rescue is not known here"
        assert not block.always, f"{block}: always is not known here"
        for each in block.block:
            if isinstance(each, Block):
                yield from inside(each)
            elif each.action.rpartition(".")[2] not in LEFT_OUT:
                assert each.loop is None, f"{each}: loops are not known here"
                yield each

    for block in play.compile():
        yield from inside(block)
