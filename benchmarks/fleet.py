"""How long a look at a whole fleet takes, and how many requests it is: python benchmarks/fleet.py [SIZE ...].

The droplets are records of the lab's API and everything else is real: the inventory plugin, the playbook, its modules,
and every request that they make. Three things are measured for each size:

    list      ansible-inventory --list: all customers, with their droplets' addresses
    make      playbooks/provision.yml where the droplets exist and all else is missing: hand-offs, host keys, firewalls
              and DNS records are made
    in order  the same again, where nothing is to be done

provision.yml ends before SSH, because there is nobody to answer. What is printed is a table in Markdown: seconds, the
requests to the API by method, and the seconds for each customer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.plugins.fleet import DOMAIN, Fleet, changes, inventory, provision
from tests.plugins.support import ROOT, TOKEN, Api, records_only

HEAD = "| customers | what | seconds | requests | of them GET | seconds for each customer |\n|---|---|---|---|---|---|"


def measured(api: Api, size: int, what: str, work: Callable[[], None]) -> None:
    """Do it, and print its line of the table."""
    api.requests()
    start = time.monotonic()
    work()
    seconds = time.monotonic() - start
    asked, each = Counter(line.split()[0] for line in api.requests()), seconds / size
    print(f"| {size} | {what} | {seconds:.1f} | {asked.total()} | {asked['GET']} | {each:.2f} |", flush=True)


def listing(directory: Path, size: int) -> None:
    program = str(Path(sys.executable).with_name("ansible-inventory"))
    done = subprocess.run(
        [program, "-i", str(directory), "--list"],
        cwd=ROOT,
        env=os.environ | {"DIGITALOCEAN_ACCESS_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count('"ansible_host"') == size, done.stderr


def reconcile(directory: Path, size: int, changing: bool) -> None:
    found = changes(provision(directory))
    assert sum(map(bool, found.values())) == (size if changing else 0), found


def measure(size: int) -> None:
    """A fleet of that many customers, from the first look to nothing to do."""
    # More than the API keeps for a judge.
    with records_only("--domain", DOMAIN, judged=False) as api, tempfile.TemporaryDirectory() as home:
        fleet = Fleet(api, size)
        hosts = {each: {"sbc_fqdn": f"{each}.{DOMAIN}"} for each in fleet.customers}
        directory = inventory(Path(home) / "inventory", api, hosts)
        measured(api, size, "list", lambda: listing(directory, size))
        measured(api, size, "make", lambda: reconcile(directory, size, True))
        measured(api, size, "in order", lambda: reconcile(directory, size, False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[10, 100, 1000], metavar="SIZE")
    sizes = parser.parse_args().sizes
    print(HEAD, flush=True)
    for size in sizes:
        measure(size)


if __name__ == "__main__":
    main()
