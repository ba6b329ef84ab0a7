#!/usr/bin/python
"""Ansible module: a customer's droplet at DigitalOcean."""

from __future__ import annotations

DOCUMENTATION = r"""
module: digitalocean_droplet
short_description: A customer's droplet at DigitalOcean
description:
  - Makes sure that a customer has exactly one droplet, that it is switched on and has its public IPv4 address, or that
    there is none.
  - The droplet is found by its tag C(sbc:customer:CUSTOMER), because names of droplets are not unique. More than one
    droplet with that tag is an error that lists them.
  - While a customer's droplet is being replaced, two carry the tag. The new one also carries C(sbc:successor), the old
    one C(sbc:retired) as soon as M(digitalocean_promotion) has begun. As long as there is either, none is created for
    the customer, and O(state=present) fails unless it is for the successor.
  - Name, tags, power and backups of an existing droplet are mended.
  - Another size needs a resize, during which the droplet is off; it is made with O(resize) only. Only memory and CPUs
    change, so that it can be taken back; the disk stays as large as it is.
  - Another region, image or user_data, a size with a smaller disk, and monitoring, need a new droplet, since the API
    has no call that changes them.
  - Where a droplet differs in what may not, or cannot, be changed, the module fails before it changes anything, unless
    O(accept_drift) is set. One that is off is switched on all the same, since an SBC that is down helps nobody.
options:
  customer:
    description: The customer, which is the inventory's host name.
    type: str
    required: true
  name:
    description: Name of the droplet, which is its host name too. Required with O(state=present).
    type: str
  region:
    description: Slug of the region. Required with O(state=present).
    type: str
  size:
    description: Slug of the size. Required with O(state=present).
    type: str
  image:
    description: Slug of the image, or the number of one of the account's own. Required with O(state=present).
    type: str
  packages:
    description:
      - What is going to be installed on the droplet. With it, a new droplet starts from the newest golden image that
        was built on O(image) with just these packages and is proven, if there is one in the region that fits on the
        disk. M(digitalocean_snapshot_info) tells what there is.
      - A droplet that was started from any golden image that was built on O(image) does not differ in its image.
    type: list
    elements: str
    default: []
  ssh_keys:
    description:
      - Fingerprints or numbers of the account's SSH keys that may log in as root. They count at creation only.
    type: list
    elements: str
    default: []
  user_data:
    description:
      - The document for cloud-init; ASCII, 64 KiB at most. It is shown nowhere. The API does not give it back, so a
        tag tells its digest; without O(user_data), or on a droplet without that tag, it is not compared.
    type: str
  successor:
    description:
      - Whether it is not the customer's droplet itself, but the one that is being built beside it to replace it.
    type: bool
    default: false
  tags:
    description:
      - Tags beside C(sbc) and C(sbc:customer:CUSTOMER), which a droplet always gets, and C(sbc:user-data:DIGEST), which
        tells the O(user_data) it was created with.
      - A tag that begins with C(sbc:) and is not named here is taken off an existing droplet; other tags stay. Those
        that tell what a droplet is cannot be named here.
    type: list
    elements: str
    default: []
  reserved_ip:
    description: The reserved IP that leads to the droplet, if any. The API lists it as if it were the droplet's own.
    type: str
  monitoring:
    description: Whether DigitalOcean's metrics agent is installed when the droplet is created.
    type: bool
    default: false
  backups:
    description: Whether DigitalOcean makes backups of the droplet, which it charges for.
    type: bool
    default: false
  backup_policy:
    description:
      - When it makes them. What is not given is chosen by DigitalOcean, and left as it is later. Needs O(backups).
    type: dict
    suboptions:
      plan:
        description: How often.
        type: str
        choices: [daily, weekly]
        required: true
      weekday:
        description: The day of a weekly backup.
        type: str
        choices: [SUN, MON, TUE, WED, THU, FRI, SAT]
      hour:
        description: The hour (UTC) at which the time for it begins.
        type: int
        choices: [0, 4, 8, 12, 16, 20]
  resize:
    description: Whether a droplet of another size is switched off, resized and switched on again.
    type: bool
    default: false
  accept_drift:
    description: Whether what would need a resize or a new droplet is only warned of, and left as it is.
    type: bool
    default: false
  timeout:
    description: >-
      Seconds to wait for the droplet to be switched on, have its address, or be gone. A resize has half an hour at
      least.
    type: int
    default: 300
  droplet_id:
    description:
      - Required with O(state=absent), and only then. Nothing is deleted but the droplet that has this number B(and) the
        customer's tag, and is, or is not, the successor, as O(successor) says. A retired droplet is deleted by
        M(digitalocean_promotion) only.
    type: int
extends_documentation_fragment: [digitalocean, digitalocean.seen]
author: teams-sbc
"""

EXAMPLES = r"""
- name: The customer has a droplet
  digitalocean_droplet:
    customer: "{{ inventory_hostname }}"
    name: "{{ sbc_fqdn }}"
    region: fra1
    size: s-1vcpu-1gb
    image: debian-13-x64
    ssh_keys: ["{{ key.fingerprint }}"]
    user_data: "{{ lookup('ansible.builtin.template', 'user_data') }}"
  delegate_to: localhost
  register: machine

- name: It gets more memory, and is off for a minute
  digitalocean_droplet:
    customer: "{{ inventory_hostname }}"
    name: "{{ sbc_fqdn }}"
    region: fra1
    size: s-1vcpu-2gb
    image: debian-13-x64
    backups: true
    backup_policy: {plan: weekly, weekday: SUN, hour: 4}
    resize: true
  delegate_to: localhost

- name: The customer has no droplet any more
  digitalocean_droplet:
    customer: "{{ inventory_hostname }}"
    droplet_id: "{{ sbc_droplet_id }}"
    state: absent
  delegate_to: localhost
"""

RETURN = r"""
droplet:
  description:
    - The droplet. In check mode, C(id) and C(address) of one that is to be created are null.
  returned: with state=present
  type: dict
  contains:
    id: {description: Its number., type: int}
    name: {description: Its name., type: str}
    status: {description: "C(active) unless in check mode.", type: str}
    address: {description: Its public IPv4 address., type: str}
    region: {description: Slug of its region., type: str}
    size: {description: Slug of its size., type: str}
    image: {description: Slug of its image; the number of an image without one., type: str}
    tags: {description: All its tags., type: list, elements: str}
    backups: {description: Whether it is backed up., type: bool}
    monitoring: {description: Whether the metrics agent was installed., type: bool}
    created_at: {description: When it was created (ISO 8601)., type: str}
  sample:
    id: 3164444
    name: sbc1.example.com
    status: active
    address: 203.0.113.10
    region: fra1
    size: s-1vcpu-1gb
    image: debian-13-x64
    tags: [sbc, "sbc:customer:contoso"]
    backups: false
    monitoring: false
    created_at: "2026-11-20T10:00:00Z"
created:
  description: Whether the droplet was, or would be, created by this task.
  returned: with state=present
  type: bool
golden:
  description: Name of the golden image that the droplet was, or would be, started from by this task.
  returned: if it is started from one
  type: str
  sample: sbc-golden-debian-13-x64-4be1a09dd2c7-20261120T100000Z
drift:
  description: >-
    What differs from the parameters and is accepted (C(attribute), C(is), C(wanted), C(remedy), which is C(resize) or
    C(replacement)).
  returned: with state=present
  type: list
  elements: dict
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.digitalocean import (
    COMMON_TAG,
    RETIRED_TAG,
    SEEN,
    SUCCESSOR_TAG,
    TAG_PREFIX,
    USER_DATA_PREFIX,
    Client,
    Resource,
    customer_tag,
    household,
    make_module,
    patiently,
    public_address,
    run,
    spelt,
    unfinished,
    user_data_tag,
)
from ansible.module_utils.golden_images import TAG_PREFIX as GOLDEN_PREFIX
from ansible.module_utils.golden_images import GoldenImage, base_of, golden_images, mark

USER_DATA_MOST = 64 * 1024
UNSEEN_LONGEST = 30
# Seconds for a resize, during which the droplet may be moved to another machine with all that is on its disk.
RESIZE_LONGEST = 1800
# Days after which a golden image lacks enough upgrades to say so.
GOLDEN_LONGEST = 30


class CustomersDroplet:
    """The droplet of one customer: what it is, what it should be, and the way there."""

    def __init__(self, module: AnsibleModule, client: Client) -> None:
        self.module, self.client, self.wanted = module, client, module.params
        self.tag = customer_tag(self.wanted["customer"])
        self.kind = "successor" if self.wanted["successor"] else "droplet"
        own = {SUCCESSOR_TAG} if self.wanted["successor"] else set()
        self.tags = sorted({COMMON_TAG, self.tag, *own, *self.wanted["tags"]})
        given = self.wanted["backup_policy"] or {}
        self.policy = {name: value for name, value in given.items() if value is not None}

    def household(self) -> dict[str, Resource]:
        """All droplets of the customer, by what they are. Raises ValueError if there are two of a kind."""
        droplets = self.client.get_all("droplets", "droplets", tag_name=self.tag)
        found: dict[str, Resource] = household(self.wanted["customer"], droplets)
        return found

    def find(self) -> Resource | None:
        """The droplet that is meant."""
        return self.household().get(self.kind)

    def present(self) -> Resource:
        existing = self.household()
        found = existing.get(self.kind)
        if set(existing) & ({"successor", "retired"} if self.kind == "droplet" or not found else set()):
            raise ValueError(unfinished(self.wanted["customer"]))
        if found is None:
            return self.create()
        if found["status"] == "archive":
            raise ValueError(f"droplet {found['id']} of {self.wanted['customer']} is archived: restore it first")
        droplet = found
        try:
            drift = self.drift(found)
            self.judge(found, drift)
        except ValueError as error:
            raise ValueError(f"{error}{self.switched_on(found)}") from error
        before = self.shown(found)
        after = self.mended(before, drift)
        if not self.module.check_mode:
            if found["status"] == "new" or not self.address(found):
                droplet = self.wait_until_ready(found["id"])
            if before != after:
                self.mend(found["id"], before, after)
                droplet = self.wait_until_ready(found["id"])
        result = {"changed": before != after, "created": False, "droplet": self.summary(droplet), "drift": drift}
        return result | ({"diff": {"before": before, "after": after}} if before != after else {})

    def create(self) -> Resource:
        wanted = self.wanted
        user_data = wanted["user_data"]
        if user_data and (not user_data.isascii() or len(user_data) > USER_DATA_MOST):
            raise ValueError(f"user_data must be ASCII and {USER_DATA_MOST} bytes at most")
        body = {name: wanted[name] for name in ("name", "region", "size", "monitoring")}
        golden = self.golden() if wanted["packages"] else None
        body["image"] = golden.id if golden else int(wanted["image"]) if wanted["image"].isdigit() else wanted["image"]
        body["ssh_keys"] = [int(key) if key.isdigit() else key for key in wanted["ssh_keys"]]
        body["tags"] = self.tags + ([user_data_tag(user_data)] if user_data else [])
        if wanted["backups"]:
            body["backups"] = True
            if self.policy:
                body["backup_policy"] = self.policy
        diff = {"before": {}, "after": dict(body)}
        if user_data:
            body["user_data"] = user_data
        if self.module.check_mode:
            droplet = self.summary({"size_slug": wanted["size"], "tags": body["tags"], "name": wanted["name"]})
            droplet |= {name: wanted[name] for name in ("region", "image", "backups", "monitoring")}
        else:
            made = self.client.create("droplets", "droplet", body, self.find)
            self.refuse_company(made)
            droplet = self.summary(self.wait_until_ready(made["id"]))
        result = {"changed": True, "created": True, "droplet": droplet, "drift": [], "diff": diff}
        return result | ({"golden": golden.name} if golden else {})

    def refuse_company(self, made: Resource) -> None:
        """Of two that were made at the same moment the first stays; the other's maker takes its own away again.

        Another run, or what is left of one that was killed, may have found no droplet just as this one did. Raises
        ValueError if it was quicker.
        """
        customer, number = self.wanted["customer"], made["id"]
        droplets = self.client.get_all("droplets", "droplets", tag_name=self.tag)
        first = min([number, *(each["id"] for each in droplets if self.kind in household(customer, [each]))])
        if first != number:
            self.client.destroy_droplet(made, self.wanted["timeout"])
            raise ValueError(
                f"another run made droplet {first} for {customer} at the same moment: that of this run ({number}) "
                f"was destroyed again. Run it once more when the other run has ended"
            )

    def golden(self) -> GoldenImage | None:
        """The newest golden image that a new droplet can start from."""
        wanted, content = self.wanted, mark(self.wanted["image"], self.wanted["packages"])
        images = golden_images(self.client.get_all("images", "images", tag_name=GOLDEN_PREFIX + content))
        fitting = [each for each in images if each.proven and each.fits(content, wanted["region"])]
        if not fitting:
            return None
        sizes = {each["slug"]: each["disk"] for each in self.client.get_all("sizes", "sizes")}
        chosen = next((each for each in fitting if each.min_disk <= sizes.get(wanted["size"], 0)), None)
        days = chosen.days(datetime.now(UTC)) if chosen else 0
        if chosen and days > GOLDEN_LONGEST:
            self.module.warn(
                f"the golden image {chosen.name} is {days} days old: `ansible-playbook playbooks/snapshot.yml` makes a "
                f"new one, and playbooks/maintain.yml installs what has come since"
            )
        return chosen

    def absent(self) -> Resource:
        number, found = self.wanted["droplet_id"], self.find()
        if found is None:
            return {"changed": False}
        if found["id"] != number:
            raise ValueError(
                f"the {self.kind} with the tag {self.tag} is {found['id']} ({found['name']}), but droplet_id is "
                f"{number}: nothing was deleted"
            )
        if not self.module.check_mode:
            self.client.destroy_droplet(found, self.wanted["timeout"])
        return {"changed": True, "diff": {"before": self.shown(found), "after": {}}}

    def shown(self, droplet: Resource) -> Resource:
        """What of a droplet can be mended."""
        backups = "backups" in droplet["features"]
        shown = {
            "name": droplet["name"],
            "status": droplet["status"],
            "size": droplet["size_slug"],
            "tags": sorted(droplet["tags"]),
            "backups": backups,
        }
        if self.policy:
            shown["backup_policy"] = self.present_policy(droplet["id"]) if backups else {}
        return shown

    def present_policy(self, number: int) -> Resource:
        """As much of the droplet's backup policy as is wanted of it."""
        policy = self.client.backup_policy(number)
        return {name: policy.get(name) for name in self.policy}

    def mended(self, before: Resource, drift: list[Resource]) -> Resource:
        kept = {tag for tag in before["tags"] if not tag.startswith(TAG_PREFIX) or tag.startswith(USER_DATA_PREFIX)}
        after = before | {
            "name": self.wanted["name"],
            "status": "active" if before["status"] == "off" else before["status"],
            "tags": sorted(kept | spelt(self.tags, before["tags"])),
            "backups": self.wanted["backups"],
        }
        if not any(each["attribute"] == "size" for each in drift):
            after["size"] = self.wanted["size"]
        if self.policy:
            after["backup_policy"] = self.policy
        return after

    def mend(self, number: int, before: Resource, after: Resource) -> None:
        """Bring an active droplet, or one that is off, to what is wanted."""
        for tag in sorted(set(after["tags"]) - set(before["tags"])):
            self.client.tag_droplet(number, tag)
        for tag in sorted(set(before["tags"]) - set(after["tags"])):
            self.client.untag_droplet(number, tag)
        if after["name"] != before["name"]:
            self.act(number, {"type": "rename", "name": after["name"]}, lambda seen: seen["name"] == after["name"])
        self.mend_backups(number, before, after)
        if after["size"] != before["size"]:
            self.resize(number, before["status"])
        elif after["status"] != before["status"]:
            self.switch_on(number)

    def mend_backups(self, number: int, before: Resource, after: Resource) -> None:
        policy = {"backup_policy": self.policy} if self.policy else {}
        if after["backups"] != before["backups"]:
            body = {"type": "enable_backups", **policy} if after["backups"] else {"type": "disable_backups"}
            self.act(number, body, lambda seen: ("backups" in seen["features"]) == after["backups"])
        elif after.get("backup_policy") != before.get("backup_policy"):
            body = {"type": "change_backup_policy", **policy}
            self.act(number, body, lambda seen: self.present_policy(seen["id"]) == self.policy)

    def resize(self, number: int, status: str) -> None:
        """Off, another size, and on again whatever comes of it."""
        size = self.wanted["size"]
        if status != "off":
            self.client.switch_off(number, self.wanted["timeout"])
        try:
            body = {"type": "resize", "size": size, "disk": False}
            longest = max(RESIZE_LONGEST, self.wanted["timeout"])
            self.client.act(number, body, lambda seen: seen["size_slug"] == size, longest)
        finally:
            self.switch_on(number)

    def switch_on(self, number: int) -> None:
        self.act(number, {"type": "power_on"}, lambda seen: seen["status"] == "active")

    def act(self, number: int, body: Resource, done: Callable[[Resource], bool]) -> None:
        self.client.act(number, body, done, self.wanted["timeout"])

    def wait_until_ready(self, number: int) -> Resource:
        """The droplet, once it is switched on and has its address; a fresh one may be unknown for a moment."""
        start, droplet = time.monotonic(), None
        for _ in patiently(self.wanted["timeout"], f"droplet {number} is not active with a public address"):
            droplet = self.client.get(f"droplets/{number}", "droplet")
            if droplet is None and time.monotonic() - start > UNSEEN_LONGEST:
                break
            if droplet and droplet["status"] == "active" and self.address(droplet):
                return droplet
        raise ValueError(f"droplet {number} has vanished: its creation failed at DigitalOcean, or someone destroyed it")

    def judge(self, droplet: Resource, drift: list[Resource]) -> None:
        """Raises ValueError if there is drift that is neither to be mended nor accepted."""
        if not drift:
            return
        customer = self.wanted["customer"]
        kinds = {each["remedy"] for each in drift}
        reasons = "; ".join(f"{each['attribute']} is {each['is']}, {each['wanted']} is wanted" for each in drift)
        about = f"{' and '.join(sorted(kinds))} required for droplet {droplet['id']} of {customer}: {reasons}"
        if self.wanted["accept_drift"]:
            self.module.warn(f"{about}. It is left as it is")
            return
        ways = []
        if "replacement" in kinds:
            again = " with -e replacement_abandon=true, and then without" if self.kind == "successor" else ""
            ways.append(f"run `ansible-playbook playbooks/replace.yml --limit {customer}`{again}")
        if "resize" in kinds:
            ways.append("allow the resize with -e droplet_allow_resize=true (the droplet is off meanwhile)")
        raise ValueError(
            f"{about}. Nothing was changed. To mend it, {' and '.join(ways)}; to leave it, set "
            f"droplet_accept_drift: true"
        )

    def switched_on(self, droplet: Resource) -> str:
        """What to say besides of a droplet that is not mended and was off, as a resize that is cut off leaves it."""
        if droplet["status"] != "off":
            return ""
        if self.module.check_mode:
            return ". But it is off, and would be switched on"
        self.switch_on(droplet["id"])
        return ". But it was off, and has been switched on"

    def drift(self, droplet: Resource) -> list[Resource]:
        """What differs and is not going to be mended. Raises ValueError if the wanted size cannot be had."""
        found, image, wanted = self.summary(droplet), droplet["image"], self.wanted
        drift = [(name, found[name], wanted[name]) for name in ("region",) if found[name] != wanted[name]]
        # A retired image loses its slug: then there is nothing to compare with.
        known = image.get("slug") or base_of(image)
        if wanted["image"] not in (known, str(image["id"])) and known:
            drift.append(("image", known, wanted["image"]))
        made_with = [tag for tag in droplet["tags"] if tag.startswith(USER_DATA_PREFIX)]
        if wanted["user_data"] and made_with and made_with != [user_data_tag(wanted["user_data"])]:
            digests = [tag.removeprefix(USER_DATA_PREFIX) for tag in (*made_with, user_data_tag(wanted["user_data"]))]
            drift.append(("user_data", f"of digest {' and '.join(digests[:-1])}", digests[-1]))
        # One that is being created may not tell its features yet.
        if found["monitoring"] != wanted["monitoring"] and found["status"] != "new":
            words = {True: "installed", False: "not installed"}
            drift.append(("monitoring", words[found["monitoring"]], words[wanted["monitoring"]]))
        differences = [(*each, "replacement") for each in drift]
        if found["size"] != wanted["size"]:
            differences += self.size_drift(droplet)
        return [dict(zip(("attribute", "is", "wanted", "remedy"), each, strict=True)) for each in differences]

    def size_drift(self, droplet: Resource) -> list[tuple[str, str, str, str]]:
        """Whether the other size takes a resize that is not allowed, or a new droplet.

        Raises ValueError if there is no such size in the droplet's region.
        """
        size, region = self.wanted["size"], droplet["region"]["slug"]
        offers = {each["slug"]: each for each in self.client.get_all("sizes", "sizes")}
        offer = offers.get(size)
        if not offer or not offer["available"] or region not in offer["regions"]:
            raise ValueError(f"size {size} of droplet {droplet['id']} is not on offer in {region}: choose another one")
        if offer["disk"] < droplet["disk"]:
            disks = f"(disk {droplet['disk']} GiB)", f"(disk {offer['disk']} GiB)"
            return [("size", f"{droplet['size_slug']} {disks[0]}", f"{size} {disks[1]}", "replacement")]
        return [] if self.wanted["resize"] else [("size", droplet["size_slug"], size, "resize")]

    def address(self, droplet: Resource) -> str | None:
        found: str | None = public_address(droplet, self.wanted["reserved_ip"])
        return found

    def summary(self, droplet: Resource) -> Resource:
        image = droplet.get("image", {})
        return {
            "id": droplet.get("id"),
            "name": droplet["name"],
            "status": droplet.get("status"),
            "address": self.address(droplet),
            "region": droplet.get("region", {}).get("slug"),
            "size": droplet["size_slug"],
            "image": image.get("slug") or str(image.get("id", "")),
            "tags": sorted(droplet["tags"]),
            "backups": "backups" in droplet.get("features", ()),
            "monitoring": "monitoring" in droplet.get("features", ()),
            "created_at": droplet.get("created_at"),
        }


def work(module: AnsibleModule, client: Client) -> Resource:
    droplet = CustomersDroplet(module, client)
    if module.params["state"] == "absent":
        return droplet.absent()
    telling = (customer_tag(""), SUCCESSOR_TAG, RETIRED_TAG, USER_DATA_PREFIX)
    if wrong := [tag for tag in module.params["tags"] if tag.startswith(telling)]:
        raise ValueError(
            f"tags: {', '.join(wrong)} would make it another droplet: such tags are given by this module only"
        )
    if module.params["droplet_id"] is not None:
        raise ValueError("droplet_id is for state=absent only")
    policy = module.params["backup_policy"]
    if policy and not module.params["backups"]:
        raise ValueError("backup_policy needs backups: true")
    if policy and policy["weekday"] and policy["plan"] == "daily":
        raise ValueError("backup_policy: weekday is for a weekly plan only")
    return droplet.present()


def arguments() -> Resource:
    policy = {
        "plan": {"type": "str", "choices": ["daily", "weekly"], "required": True},
        "weekday": {"type": "str", "choices": ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]},
        "hour": {"type": "int", "choices": [0, 4, 8, 12, 16, 20]},
    }
    spec: Resource = SEEN | {name: {"type": "str"} for name in ("name", "region", "size", "image")}
    spec |= {
        "customer": {"type": "str", "required": True},
        "ssh_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
        "user_data": {"type": "str", "no_log": True},
        "successor": {"type": "bool", "default": False},
        "tags": {"type": "list", "elements": "str", "default": []},
        "packages": {"type": "list", "elements": "str", "default": []},
        "reserved_ip": {"type": "str"},
        "monitoring": {"type": "bool", "default": False},
        "backups": {"type": "bool", "default": False},
        "backup_policy": {"type": "dict", "options": policy},
        "resize": {"type": "bool", "default": False},
        "accept_drift": {"type": "bool", "default": False},
        "timeout": {"type": "int", "default": 300},
        "droplet_id": {"type": "int"},
    }
    required = [("state", "present", ["name", "region", "size", "image"]), ("state", "absent", ["droplet_id"])]
    return {"argument_spec": spec, "required_if": required}


def main() -> None:
    run(make_module(**arguments()), work)


if __name__ == "__main__":
    main()
