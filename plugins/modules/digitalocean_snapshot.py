#!/usr/bin/python
"""Ansible module: a snapshot of a droplet at DigitalOcean."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_snapshot
short_description: A snapshot of a droplet at DigitalOcean
description:
  - Makes sure that a snapshot of a droplet exists under a name and with some tags, or that there is none.
  - With O(state=present) a snapshot is found by its O(name) or O(snapshot_id). If there is none of that name, the
    droplet is switched off, as DigitalOcean recommends, and the snapshot is made. It is not switched on again.
  - With O(state=absent) it is found by O(snapshot_id) alone, and deleted only if its name is O(name).
options:
  name:
    description: The name. DigitalOcean does not care whether it is unique; here several of one name are an error.
    type: str
    required: true
  droplet_id:
    description: The droplet that the snapshot is made of, if there is none of that name yet.
    type: int
  snapshot_id:
    description: Number of the snapshot. Required with O(state=absent).
    type: int
  tags:
    description: Tags that the snapshot shall carry. Others that it has stay.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait for the droplet to be off, and then for the snapshot.
    type: int
    default: 1800
extends_documentation_fragment: digitalocean
author: teams-sbc
"""

EXAMPLES = r"""
- name: What was built is kept
  digitalocean_snapshot:
    name: sbc-before-the-change
    droplet_id: 3164444
  delegate_to: localhost
  register: kept

- name: It is tagged
  digitalocean_snapshot:
    name: sbc-before-the-change
    tags: [sbc]
  delegate_to: localhost

- name: It is not needed any more
  digitalocean_snapshot:
    name: sbc-before-the-change
    snapshot_id: "{{ kept.snapshot.id }}"
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
snapshot:
  description: The snapshot. In check mode, C(id) of one that is to be made is null.
  returned: with state=present
  type: dict
  contains:
    id: {description: "Its number, by which a droplet can be created from it.", type: int}
    name: {description: Its name., type: str}
    regions: {description: Slugs of the regions where droplets can be created from it., type: list, elements: str}
    min_disk_size: {description: "The smallest disk, in GiB, that a droplet created from it may have.", type: int}
    tags: {description: All its tags., type: list, elements: str}
    created_at: {description: When it was made (ISO 8601)., type: str}
  sample:
    id: 119192817
    name: sbc-before-the-change
    regions: [fra1]
    min_disk_size: 25
    tags: [sbc]
    created_at: "2026-11-20T10:00:00Z"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import Client, Resource, make_module, patiently, run

SHOWN = ("id", "name", "regions", "min_disk_size", "tags", "created_at")


class Snapshot:
    """One snapshot by its name: what it is, what it should be, and the way there."""

    def __init__(self, module: AnsibleModule, client: Client) -> None:
        self.module, self.client, self.wanted = module, client, module.params

    def find(self) -> Resource | None:
        """The snapshot that is meant. Raises ValueError if its name says something else, or several have the name."""
        name, number = self.wanted["name"], self.wanted["snapshot_id"]
        if number is not None:
            found = self.client.get(f"images/{number}", "image")
            if found and (found["name"], found["type"]) != (name, "snapshot"):
                raise ValueError(f"image {number} is {found['name']} ({found['type']}), not the snapshot {name}")
            return found
        images = self.client.get_all("images", "images", private="true")
        named = [image for image in images if image["type"] == "snapshot" and image["name"] == name]
        if len(named) > 1:
            numbers = ", ".join(str(image["id"]) for image in named)
            raise ValueError(f"{len(named)} snapshots are called {name}: {numbers}. Say which one, by snapshot_id")
        return named[0] if named else None

    def present(self) -> Resource:
        found = self.find()
        if found is None and (self.wanted["droplet_id"] is None or self.wanted["snapshot_id"] is not None):
            raise ValueError(f"there is no snapshot {self.wanted['name']}, and none can be made without a droplet_id")
        before = self.shown(found) if found else {}
        tags = sorted({*(before.get("tags") or ()), *self.wanted["tags"]})
        snapshot = found or {"name": self.wanted["name"]}
        if not self.module.check_mode:
            snapshot = self.wait_until_available(found) if found else self.make()
            resource = {"resources": [{"resource_id": str(snapshot["id"]), "resource_type": "image"}]}
            for tag in sorted(set(tags) - set(snapshot.get("tags") or ())):
                self.client.ensure_tag(tag)
                self.client.call("POST", f"tags/{tag}/resources", resource, repeatable=True)
        snapshot |= {"tags": tags}
        after = before | {"name": self.wanted["name"], "tags": tags}
        result: Resource = {"changed": before != after, "snapshot": {name: snapshot.get(name) for name in SHOWN}}
        return result | ({"diff": {"before": before, "after": after}} if before != after else {})

    def absent(self) -> Resource:
        found = self.find()
        if found is None:
            return {"changed": False}
        if not self.module.check_mode:
            self.client.delete(f"images/{found['id']}")
        return {"changed": True, "diff": {"before": self.shown(found), "after": {}}}

    @staticmethod
    def shown(snapshot: Resource) -> Resource:
        return {"name": snapshot["name"], "tags": sorted(snapshot.get("tags") or ())}

    def make(self) -> Resource:
        number, name, timeout = (self.wanted[each] for each in ("droplet_id", "name", "timeout"))
        droplet = self.client.get(f"droplets/{number}", "droplet")
        if droplet is None:
            raise ValueError(f"droplet {number} does not exist, so there is nothing to make a snapshot of")
        if droplet["status"] != "off":
            self.client.switch_off(number, timeout)
        body = {"type": "snapshot", "name": name}
        action = self.client.create(f"droplets/{number}/actions", "action", body, lambda: self.begun(number))
        self.client.follow(number, action, timeout)
        return self.wait_until_available(None)

    def begun(self, number: int) -> Resource | None:
        """The action that makes the snapshot, if it was begun although the answer got lost."""
        actions = self.client.get_all(f"droplets/{number}/actions", "actions")
        made = bool(self.find())
        snapshots = (each for each in actions if each["type"] == "snapshot")
        return next((each for each in snapshots if made or each["status"] == "in-progress"), None)

    def wait_until_available(self, found: Resource | None) -> Resource:
        """The snapshot, once droplets can be created from it."""
        for _ in patiently(self.wanted["timeout"], f"snapshot {self.wanted['name']} is not available"):
            found = found or self.find()
            if found and found.get("status", "available") == "available" and found["regions"]:
                return found
            found = None
        raise AssertionError("unreachable")


def work(module: AnsibleModule, client: Client) -> Resource:
    snapshot = Snapshot(module, client)
    return snapshot.absent() if module.params["state"] == "absent" else snapshot.present()


def main() -> None:
    spec = {
        "name": {"type": "str", "required": True},
        "droplet_id": {"type": "int"},
        "snapshot_id": {"type": "int"},
        "tags": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 1800},
    }
    run(make_module(spec, required_if=[("state", "absent", ["snapshot_id"])]), work)


if __name__ == "__main__":
    main()
