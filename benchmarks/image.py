"""How much sooner a droplet from a golden image is an SBC: python benchmarks/image.py [--runs N].

A golden image is built, as playbooks/snapshot.yml does it. Then the same customer is rolled out from the plain image
and from the golden one, in turn, each time into an account without a droplet, a firewall or records, until every proxy
is proven. It runs in the lab, with a warm package cache; what is printed are medians in seconds, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rollout import timed
from lab import settings
from tests.e2e import world

PLAIN, GOLDEN = "plain image", "golden image"


def nobody() -> None:
    """No droplet, no firewall and no records of the customer, and a Microsoft that has not seen it yet."""
    world.destroy(world.CUSTOMER)
    for firewall in world.api("GET", "firewalls")["firewalls"]:
        world.api("DELETE", f"firewalls/{firewall['id']}")
    records = f"domains/{settings.DOMAIN}/records"
    for record in world.api("GET", f"{records}?type=A&per_page=200")["domain_records"]:
        world.api("DELETE", f"{records}/{record['id']}")
    world.trunk(False)
    world.trunk(True)


def play(name: str, *arguments: str) -> None:
    """Run a playbook that must succeed."""
    done = world.playbook(name, *arguments)
    if done.code != 0:
        raise SystemExit(f"{name} failed:\n{done.text}")


def rollout(golden: bool) -> float:
    """Seconds from nothing to proven."""
    nobody()
    seconds = timed(lambda: play("site.yml", "-e", f"droplet_golden={str(golden).lower()}"))
    (droplet,) = world.api("GET", f"droplets?tag_name=sbc:customer:{world.CUSTOMER}")["droplets"]
    if (droplet["image"]["type"] == "snapshot") is not golden:
        raise SystemExit(f"the droplet started from {droplet['image']['name']}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each (default 3)")
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {PLAIN: [], GOLDEN: []}
    world.lab("down")
    world.lab("up")
    try:
        world.trunk(True)
        # Fills the package cache for all of them.
        rollout(golden=False)
        nobody()
        built = timed(lambda: play("playbooks/snapshot.yml"))
        print(f"the golden image was built and tried in {built:.1f} s", flush=True)
        for number in range(1, runs + 1):
            times[PLAIN].append(rollout(golden=False))
            times[GOLDEN].append(rollout(golden=True))
            print(f"run {number}: plain {times[PLAIN][-1]:.1f} s, golden {times[GOLDEN][-1]:.1f} s", flush=True)
    finally:
        world.lab("down")
    plain = statistics.median(times[PLAIN])
    print()
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name:12}  {middle:6.1f} s  {middle / plain:.2f} times the plain image")


if __name__ == "__main__":
    main()
