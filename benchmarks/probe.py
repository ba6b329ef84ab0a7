"""What the probe costs, beside another exporter: make bench-probe, or python benchmarks/probe.py [--looks N] as root.

Both run on Debian 13's own packages in the tests' root directory (KAMAILIO_ROOT), beside a real Kamailio with the
product's configuration and three proxies; both in the same run. The probe is `sbc-probe serve`, started as its unit
starts it, but does an hour's work (240 gatherings; N) in a fraction of the time, while it is scraped after each of them
and its page is looked at now and then. The other one is prometheus-blackbox-exporter, whose scrape sends our port one
OPTIONS over TLS. Printed are resident memory, the processor's time for one look and its share of one core at the pace
of production, and the time of a scrape; then the ratios. The exit code is 1 when the probe takes more than it may:
30 MiB, 0.5 % of a core, 10 ms for the median scrape.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kamailio.beside import PORT, Microsoft, ask, cause, in_root, python, start_probe, surroundings
from tests.kamailio.conftest import started
from tests.kamailio.running import ADDRESS, FQDN, PROXIES, ROOT, Sbc, wait_for

# The pace of production: one gathering in so many seconds.
PACE = 15.0
OTHER_PORT = 9115
# The service as it is, but for its pace.
HURRIED = """
import sys
sys.path.insert(0, sys.argv[1])
from sbc_probe import cli, service
service.refresh_interval = lambda config: 0.1
cli.main(["serve", "--config", sys.argv[2]])
"""
BLACKBOX = f"""
modules:
  options:
    prober: tcp
    tcp:
      source_ip_address: {ADDRESS}
      tls: true
      tls_config: {{insecure_skip_verify: true}}
      query_response:
        - send: "OPTIONS sip:{FQDN}:5061;transport=tls SIP/2.0\\r"
        - send: "Via: SIP/2.0/TLS {ADDRESS}:5061;branch=z9hG4bKbench\\r"
        - send: "From: <sip:bench@{FQDN}>;tag=1\\r"
        - send: "To: <sip:{FQDN}>\\r"
        - send: "Call-ID: bench\\r"
        - send: "CSeq: 1 OPTIONS\\r"
        - send: "Max-Forwards: 70\\r"
        - send: "Content-Length: 0\\r"
        - send: "\\r"
        - expect: "SIP/2.0 200"
"""


@dataclass(frozen=True)
class Cost:
    """Memory in MiB (resident at the end, and at most), the processor's time for one look in s, scrapes in s."""

    resident: float
    most: float
    processor: float
    scrapes: list[float]

    def __str__(self) -> str:
        return (
            f"resident {self.resident:5.1f} MiB, at most {self.most:5.1f}   "
            f"processor {self.processor * 1000:5.1f} ms a look, {self.processor / PACE:6.2%} of a core   "
            f"scrape p50 {statistics.median(self.scrapes) * 1000:5.1f} ms, p99 {self.p99 * 1000:5.1f} ms"
        )

    @property
    def p99(self) -> float:
        return sorted(self.scrapes)[int(len(self.scrapes) * 0.99)]


class Watched:
    """A process whose cost is taken down."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.proc, self.port = Path(f"/proc/{process.pid}"), port
        self.began = self.processor()
        self.scrapes: list[float] = []

    def processor(self) -> float:
        """Its own time (s) and that of its children that have ended."""
        fields = (self.proc / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory(self, what: str) -> float:
        found = re.search(rf"^{what}:\s+(\d+) kB", (self.proc / "status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def scrape(self, path: str) -> str:
        begin = time.perf_counter()
        code, body = ask(path, self.port)
        self.scrapes.append(time.perf_counter() - begin)
        assert code == 200, body
        return body.decode()

    def cost(self, looks: int) -> Cost:
        spent = self.processor() - self.began
        return Cost(self.memory("VmRSS"), self.memory("VmHWM"), spent / looks, self.scrapes)


def gatherings(metrics: str) -> int:
    found = re.search(r"^sbc_probe_gatherings_total (\S+)", metrics, re.MULTILINE)
    assert found
    return int(float(found[1]))


def measure_probe(sbc: Sbc, settings: dict[str, Any], looks: int) -> Cost:
    """The cost of so many gatherings."""
    inside = Path("/") / sbc.directory.relative_to(ROOT)
    with ExitStack() as stack:
        microsoft = Microsoft(sbc)
        stack.callback(microsoft.quiet.set)
        # As many roots as a machine has.
        roots = (ROOT / "etc/ssl/certs/ca-certificates.crt").read_text() + (sbc.directory / "ca.pem").read_text()
        (sbc.directory / "roots.pem").write_text(roots)
        settings["trusted_roots"] = f"{inside}/roots.pem"
        (sbc.directory / "hurried.py").write_text(HURRIED)
        for prepare in (
            ["-m", "zipfile", "-e", f"{inside}/sbc-probe", f"{inside}/program"],
            ["-m", "compileall", "-q", f"{inside}/program"],
        ):
            subprocess.run(in_root(sbc.directory / "resolv.conf", *python(), *prepare), check=True)
        command = [*python(), f"{inside}/hurried.py", f"{inside}/program", f"{inside}/probe.json"]
        process = start_probe(sbc, settings, *command)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert wait_for(lambda: cause() == "proven", 60), cause()
        watched = Watched(process, PORT)
        first = last = gatherings(watched.scrape("/metrics"))
        while last < first + looks:
            time.sleep(0.1)
            last = gatherings(watched.scrape("/metrics"))
            if len(watched.scrapes) % 10 == 0:
                ask("/")
                ask("/status.json")
        return watched.cost(last - first)


def measure_other(sbc: Sbc, looks: int) -> Cost:
    """The cost of so many scrapes, each of which is a look."""
    inside = Path("/") / sbc.directory.relative_to(ROOT)
    (sbc.directory / "blackbox.yml").write_text(BLACKBOX)
    command = [
        "prometheus-blackbox-exporter",
        f"--config.file={inside}/blackbox.yml",
        f"--web.listen-address=127.0.0.1:{OTHER_PORT}",
        "--log.level=error",
    ]
    process = subprocess.Popen(in_root(sbc.directory / "resolv.conf", *command))
    try:
        assert wait_for(lambda: _serves(), 30)
        watched = Watched(process, OTHER_PORT)
        for _ in range(looks):
            said = watched.scrape(f"/probe?module=options&target={ADDRESS}:5061")
            assert "\nprobe_success 1\n" in said, said
        return watched.cost(looks)
    finally:
        process.kill()
        process.wait()


def _serves() -> bool:
    try:
        return ask("/metrics", OTHER_PORT)[0] == 200
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--looks", type=int, default=240, help="gatherings, and scrapes of the other (default: %(default)s)"
    )
    looks = parser.parse_args().looks
    with tempfile.TemporaryDirectory(prefix="sbc-", dir=ROOT / "tmp") as name, started(Path(name)) as start:
        sbc = start(sbc_options_interval=4)
        print(f"{looks} gatherings of the probe, as many scrapes of the other; {len(PROXIES)} proxies")
        with surroundings(sbc) as settings:
            probe = measure_probe(sbc, settings, looks)
            print(f"sbc-probe          {probe}", flush=True)
            other = measure_other(sbc, looks)
        print(f"blackbox_exporter  {other}")
        print(
            f"ratios             resident {probe.resident / other.resident:.2f}, "
            f"processor a look {probe.processor / other.processor:.2f}, "
            f"scrape p50 {statistics.median(probe.scrapes) / statistics.median(other.scrapes):.2f}, "
            f"p99 {probe.p99 / other.p99:.2f}"
        )
        return int(probe.resident > 30 or probe.processor / PACE > 0.005 or statistics.median(probe.scrapes) > 0.01)


if __name__ == "__main__":
    sys.exit(main())
