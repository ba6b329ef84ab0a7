"""Inventory plugin: the addresses of the customers' droplets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: digitalocean
short_description: Addresses of the customers' droplets at DigitalOcean
description:
  - Adds the address and the connection's variables to the hosts that another inventory file declares in a group. It
    never invents hosts, and leaves a variable that a host declares itself as it is.
  - A host's droplet is the one with the tag C(sbc:customer:HOST), and neither C(sbc:successor) nor C(sbc:retired),
    which tell the other one while a droplet is being replaced. One API call lists those of all customers.
  - Its file must end in C(.digitalocean.yml), and its name must sort after those that declare the hosts.
  - Adds C(ansible_host) (public IPv4 address), C(sbc_droplet_id), C(ansible_user), C(ansible_python_interpreter), and
    C(ansible_ssh_common_args), with which SSH verifies the host key that is noted in C(state/known_hosts) beside the
    inventory.
  - If the API does not answer, if two droplets are a customer's, or if a replacement was cut off between the two, there
    is a warning, and no address.
options:
  plugin:
    description: Names this plugin.
    type: str
    required: true
    choices: [digitalocean]
  endpoint:
    description: The API's endpoint.
    type: str
    default: https://api.digitalocean.com/v2/
  token:
    description: The API token.
    type: str
    env:
      - name: DIGITALOCEAN_ACCESS_TOKEN
  group:
    description: The group whose hosts are customers.
    type: str
    default: sbc
requirements:
  - python-digitalocean >= 1.17
"""

EXAMPLES = r"""
# inventory/NAME/droplets.digitalocean.yml, the token being in the environment
plugin: digitalocean
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.display import Display

# The setting module_utils counts for modules only; here the plugin sees to it that the client is found.
if (_utils := str(Path(__file__).resolve().parents[1] / "module_utils")) not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(_utils)

from ansible.module_utils.digitalocean import (
    COMMON_TAG,
    LIBRARY_ERROR,
    ApiError,
    Client,
    Resource,
    household,
    public_address,
    unfinished,
)

display = Display()


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]  # no types
    NAME = "digitalocean"

    def verify_file(self, path: str) -> bool:
        return super().verify_file(path) and path.endswith((".digitalocean.yml", ".digitalocean.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        group = inventory.groups.get(self.get_option("group"))
        customers = group.get_hosts() if group else []
        if not customers:
            return
        known_hosts = Path(path).resolve().parent / "state" / "known_hosts"
        for host in customers:
            self._add(host, _connection(host.name, known_hosts))
        droplets = self._droplets(path)
        for host in customers:
            self._add_droplet(host, droplets, path)

    def _add(self, host: Any, variables: dict[str, Any]) -> None:
        for name, value in variables.items():
            if name not in host.vars:
                self.inventory.set_variable(host.name, name, value)

    @staticmethod
    def _reserved_ip(path: str, host: str) -> str | None:
        """The customer's reserved IP, where a run has noted one."""
        file = Path(path).resolve().parent / "state" / host / "reserved_ip"
        return file.read_text().strip() if file.exists() else None

    def _add_droplet(self, host: Any, droplets: list[Resource], path: str) -> None:
        try:
            found = household(host.name, droplets)
        except ValueError as error:
            display.warning(f"{host.name}: no address: {error}")
            return
        if droplet := found.get("droplet"):
            address = public_address(droplet, self._reserved_ip(path, host.name))
            self._add(host, {"sbc_droplet_id": droplet["id"]} | ({"ansible_host": address} if address else {}))
        elif found:
            display.warning(f"{host.name}: no address: {unfinished(host.name)}")

    def _droplets(self, path: str) -> list[Resource]:
        token, endpoint = self.get_option("token"), self.get_option("endpoint")
        if LIBRARY_ERROR:
            reason = f"python-digitalocean is not installed for {sys.executable}"
        elif not token:
            reason = "there is no API token: set DIGITALOCEAN_ACCESS_TOKEN in the environment"
        else:
            try:
                client = Client(token, endpoint, timeout=10, attempts=2, patience=10)
                droplets: list[Resource] = client.get_all("droplets", "droplets", tag_name=COMMON_TAG)
                return droplets
            except ApiError as error:
                reason = f"the API at {endpoint} was of no help: {error}"
            except ValueError as error:
                raise AnsibleParserError(f"{path}: {error}") from error
        display.warning(f"the droplets' addresses are unknown, because {reason}")
        return []


def _connection(host: str, known_hosts: Path) -> dict[str, str]:
    """Variables of a connection that verifies the host key noted under the host's inventory name."""
    # ssh expands % in a file name, and splits it at spaces unless it is quoted.
    file = f'UserKnownHostsFile="{str(known_hosts).replace("%", "%%")}"'
    options = (file, f"HostKeyAlias={host}", "StrictHostKeyChecking=yes")
    return {
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": " ".join(f"-o {shlex.quote(option)}" for option in options),
    }
