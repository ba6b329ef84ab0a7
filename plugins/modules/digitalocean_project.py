#!/usr/bin/python
"""Ansible module: a project at DigitalOcean."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_project
short_description: A project at DigitalOcean
description:
  - Makes sure that a project, found by its name, exists and holds these resources, or that there is none.
  - A resource is in one project at a time, so it leaves the one where it was. Other resources stay where they are.
options:
  name:
    description: Name of the project, which is unique in an account; 175 characters at most.
    type: str
    required: true
  description:
    description: Text that describes it; counts when it is created.
    type: str
    default: ""
  purpose:
    description: What it is for; counts when it is created.
    type: str
    default: Service or API
  environment:
    description: What kind of resources it holds; counts when it is created.
    type: str
    choices: [Development, Staging, Production]
    default: Production
  resources:
    description:
      - What it shall hold beside what it holds, by uniform resource names such as C(do:droplet:3164444) and
        C(do:floatingip:198.51.100.7), which is what a reserved IP is called here.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait for a resource that is still unknown, as new ones may be for a moment.
    type: int
    default: 60
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: The droplet is filed in its project
  digitalocean_project:
    name: Telephony
    resources: ["do:droplet:{{ machine.droplet.id }}"]
  delegate_to: localhost

- name: A project that is empty is not needed any more
  digitalocean_project:
    name: Telephony
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
id:
  description: Its identifier; null for one that check mode would create.
  returned: with state=present
  type: str
added:
  description: The resources that it did not hold before.
  returned: with state=present
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import SEEN, Client, Resource, make_module, patiently, run

FILED = ("ok", "assigned", "already_assigned")


def work(module: AnsibleModule, client: Client) -> Resource:
    wanted = module.params

    def find() -> Resource | None:
        projects = client.get_all("projects", "projects")
        return next((each for each in projects if each["name"] == wanted["name"]), None)

    found = find()
    if wanted["state"] == "absent":
        if found and not module.check_mode:
            client.delete(f"projects/{found['id']}")
        before = {"project": wanted["name"]} if found else {}
        return {"changed": bool(found), "diff": {"before": before, "after": {}}}

    held = [each["urn"] for each in client.get_all(f"projects/{found['id']}/resources", "resources")] if found else []
    added = [urn for urn in dict.fromkeys(wanted["resources"]) if urn not in held]
    shown = {"project": wanted["name"], "resources": sorted(set(wanted["resources"]) & set(held))}
    result: Resource = {
        "changed": found is None or bool(added),
        "added": added,
        "diff": {
            "before": shown if found else {},
            "after": shown | {"resources": sorted(set(wanted["resources"]))},
        },
    }
    if not module.check_mode:
        if found is None:
            body = {name: wanted[name] for name in ("name", "description", "purpose", "environment")}
            found = client.create("projects", "project", body, find)
        if added:
            file(client, found, added, wanted["timeout"])
    return result | {"id": found and found["id"]}


def file(client: Client, project: Resource, urns: list[str], timeout: float) -> None:
    """Put resources into a project. Raises ApiError, and ValueError if one of them stays unknown."""
    missing = urns
    for _ in patiently(timeout, f"DigitalOcean does not file {', '.join(urns)} in the project {project['name']}"):
        answer = client.call("POST", f"projects/{project['id']}/resources", {"resources": missing}, repeatable=True)
        filed = {each["urn"] for each in answer["resources"] if each["status"] in FILED}
        missing = [urn for urn in missing if urn not in filed]
        if not missing:
            return


def arguments() -> Resource:
    spec = SEEN | {
        "name": {"type": "str", "required": True},
        "description": {"type": "str", "default": ""},
        "purpose": {"type": "str", "default": "Service or API"},
        "environment": {
            "type": "str",
            "choices": ["Development", "Staging", "Production"],
            "default": "Production",
        },
        "resources": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 60},
    }
    return {"argument_spec": spec}


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
