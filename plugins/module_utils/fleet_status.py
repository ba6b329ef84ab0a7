"""How all customers are, for programs and for people: status.json and status.html in inventory/NAME/status.

For callback plugins; no module imports it. Nothing is decided here: the verdicts are the probes'.

status.json, schema version 1. What is not known is null, times are ISO 8601 in UTC. Fields may be added without a new
version.

    schema      1
    written_at  when this was written
    inventory   the inventory's directory
    counts      customers by state, every state named; their sum is that of the customers
    customers   all that the inventory declares, the most severe state first, then by name; one each:
      customer    the host's name in the inventory
      state       "failed", "unreachable", "unknown", "no droplet", "waiting" or "proven", in this order of severity
      cause       one of the probe's; or "no_report", "not_asked" (by a run with --limit), "old_probe"; null when proven
      evidence    in words; null when proven
      next_step   in words; null when proven
      asked_at    when it was asked last; null when never
      fqdn, address
      last_state  what was said when it was asked last, where `state` says that this is too old or not to be relied on
      copy        what there is to say of the controller's copy of the certificate; null when nothing is known
      report      what `sbc-probe check --json` printed there; null where it printed nothing, or in another form
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
if (_source := str(CHECKOUT / "src")) not in sys.path:
    # The words and looks of the probe's own page, from this checkout.
    sys.path.append(_source)

from sbc_probe.markup import LOOKS, Child, Look, chip, document, element, prose, symbol
from sbc_probe.report import SCHEMA as PROBE_SCHEMA
from sbc_probe.words import WORDS

SCHEMA = 1
STATES = ("failed", "unreachable", "unknown", "no droplet", "waiting", "proven")
# A verdict of another run counts for this long (s): slices of one fleet write the same files, each what it has asked.
FRESH = 900.0
# What is shown of a report; a probe that does not give all of it is an old one.
NEEDED = frozenset({"overall", "destinations", "certificate", "renewal", "theirs", "findings", "remarks"})
TITLES = {
    "no_report": "There is no report",
    "not_asked": "Nobody asked it",
    "old_probe": "The probe there is an old one",
}

Entry = dict[str, Any]


def entry_of(
    customer: str, report: Mapping[str, Any] | None, copy: Mapping[str, Any] | None, why: str, now: float
) -> Entry:
    """What a run found of one customer; `why` says why there is no report."""
    found: Entry = {
        "customer": customer,
        "state": "unknown",
        "cause": "no_report",
        "evidence": why,
        "next_step": f"ansible-playbook playbooks/verify.yml --limit {customer}",
        "asked_at": moment(now),
        "fqdn": None,
        "address": None,
        "last_state": None,
        "copy": dict(copy) if copy else None,
        "report": None,
    }
    if report is None:
        return found
    overall = report["overall"]
    found |= {name: report.get(name) for name in ("fqdn", "address")}
    found |= {name: overall.get(name) for name in ("state", "cause", "evidence", "next_step")}
    if "schema" not in report:
        return found
    lacking = sorted(NEEDED - report.keys())
    if report["schema"] != PROBE_SCHEMA or lacking:
        what = f"lacks {', '.join(lacking)}" if lacking else f"has schema {report['schema']}, not {PROBE_SCHEMA}"
        found |= {
            "state": "unknown",
            "cause": "old_probe",
            "evidence": f"Its report {what}; it says {found['state']}",
            "next_step": f"ansible-playbook site.yml --limit {customer}",
            "last_state": found["state"],
        }
    else:
        found["report"] = dict(report)
    return found


def not_asked(customer: str, before: Entry | None, now: float) -> Entry:
    """A customer that this run was not for: what another run found lately, or that nothing is known of it."""
    step = f"ansible-playbook playbooks/status.yml --limit {customer}"
    if before is None or before["asked_at"] is None:
        return entry_of(customer, None, None, "No run has asked it yet", now) | {
            "cause": "not_asked",
            "next_step": step,
            "asked_at": None,
        }
    if now - seconds(before["asked_at"]) <= FRESH:
        return before
    said = before["last_state"] or before["state"]
    return before | {
        "state": "unknown",
        "cause": "not_asked",
        "evidence": f"It was asked last at {before['asked_at']}, and was {said}",
        "next_step": step,
        "last_state": said,
    }


def gathered(
    inventory: str, declared: Iterable[str], asked: Mapping[str, Entry], before: Mapping[str, Any] | None, now: float
) -> dict[str, Any]:
    """The whole as described at the top of this file."""
    known = {each["customer"]: each for each in before["customers"]} if before else {}
    customers = [
        asked[name] if name in asked else not_asked(name, known.get(name), now) for name in {*declared, *asked}
    ]
    customers.sort(key=lambda each: (severity(each["state"]), each["customer"]))
    return {
        "schema": SCHEMA,
        "written_at": moment(now),
        "inventory": inventory,
        "counts": {state: sum(each["state"] == state for each in customers) for state in STATES},
        "customers": customers,
    }


def severity(state: str) -> int:
    """A state's place, the most severe first."""
    return STATES.index(state) if state in STATES else 0


def write(inventory: Path, declared: Iterable[str], asked: Mapping[str, Entry], now: float) -> Path:
    """Write both files below `inventory`, each at once and whole; the page's path. Raises OSError."""
    directory = inventory / "status"
    directory.mkdir(exist_ok=True)
    with _alone(directory):
        status = gathered(str(inventory), declared, asked, _read(directory / "status.json"), now)
        _replace(directory / "status.json", json.dumps(status, indent=1) + "\n")
        _replace(directory / "status.html", page(status, os.path.relpath(CHECKOUT / "docs", directory)))
    return directory / "status.html"


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let slices that end at the same moment write one after the other."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, Any] | None:
    """What was written last; None where there is nothing that can be used."""
    try:
        status = json.loads(path.read_text())
        usable = status["schema"] == SCHEMA and all(Entry(each)["customer"] for each in status["customers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(status) if usable else None


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is its owner's alone; this one holds nothing that others may not know.
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def moment(at: float) -> str:
    """A point in time, ISO 8601 in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def seconds(text: str) -> float:
    """The same as Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


# ---------------------------------------------------------------- the page

STYLE = """
nav{display:flex;flex-wrap:wrap;gap:.5rem 1.25rem;align-items:center}
nav a{text-decoration:none}nav a:hover{text-decoration:underline}
#filter{font:inherit;width:100%;padding:.5rem .75rem;color:var(--text);background:var(--card);
border:1px solid var(--line);border-radius:.5rem}
.fleet{table-layout:fixed}.fleet th,.fleet td{text-align:left;padding:.5rem .75rem .5rem 0;overflow-wrap:anywhere}
.fleet b,.fleet small{white-space:normal}
.fleet .chip{display:inline}.fleet .chip .symbol{margin-right:.35em}
.verdict nav .symbol{width:1em;height:1em}.taken time{margin-right:.4em}
.fleet thead th:nth-child(1){width:17%}.fleet thead th:nth-child(3){width:17%}.fleet thead th:nth-child(4){width:13%}
.fleet thead th:nth-child(5){width:13%}
.fleet tbody th b{font-weight:650}.fleet small{display:block;color:var(--quiet)}
.fleet tr:target,.causes dt:target{background:var(--soft)}
.causes dt{font-weight:650;margin-top:1rem}.causes dd{max-width:60rem}
h2 .symbol{margin-right:.4em}
@media (max-width:60rem){.fleet thead{display:none}
.fleet tr{display:block;border-top:1px solid var(--line);padding:.5rem 0}.fleet tr[hidden]{display:none}
.fleet th,.fleet td{display:block;border:0;padding:.1rem 0}
.fleet td[data-of]::before{content:attr(data-of) ": ";color:var(--quiet)}}
"""
# Without it the page says the same; with it the page can be searched and says how old it is.
SCRIPT = """
const box = document.getElementById("filter"), written = document.getElementById("written");
box.hidden = false;
box.oninput = () => {
  const words = box.value.toLowerCase().split(/\\s+/);
  for (const part of document.querySelectorAll("section.part")) {
    let any = false;
    for (const row of part.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      any = any || !row.hidden;
    }
    part.hidden = !any;
  }
};
const age = () => {
  const minutes = Math.floor((Date.now() - Date.parse(written.dateTime)) / 60000);
  written.nextElementSibling.textContent = minutes < 1 ? "just now"
    : minutes < 120 ? `${minutes} min ago` : `${Math.floor(minutes / 60)} h ago`;
};
age();
setInterval(age, 30000);
"""
SHAPES = {"unreachable": "unknown", "no droplet": "unknown"}
HEADINGS = {
    "failed": "Not proven",
    "unreachable": "Out of reach",
    "unknown": "Not known",
    "no droplet": "Without a droplet",
    "waiting": "Ready, waiting for Microsoft",
    "proven": "Proven",
}


def look_of(state: str) -> Look:
    """How a state is shown."""
    return LOOKS[SHAPES.get(state, state)]


def page(status: Mapping[str, Any], docs: str) -> str:
    """The page for people; `docs` leads to the documentation from where the page lies."""
    counts, customers = status["counts"], status["customers"]
    total, proven = len(customers), counts["proven"]
    worst = customers[0]["state"] if customers else "unknown"
    headline = f"All {total} proven" if proven == total else f"{total - proven} of {total} not proven"
    causes = sorted({each["cause"] for each in customers if each["cause"] in WORDS})
    return document(
        look_of(worst),
        f"{headline} \N{EN DASH} {Path(status['inventory']).name}",
        element("style", STYLE),
        element(
            "header",
            symbol(look_of(worst)),
            element("h1", headline),
            element(
                "p",
                "written ",
                element("time", _readable(status["written_at"]), id="written", datetime=status["written_at"]),
                element("b", ""),
                class_="taken",
            ),
            element(
                "nav",
                [
                    element(
                        "a",
                        chip(look_of(state), _count(count, state)),
                        href=f"#{_anchor(state)}",
                    )
                    for state, count in counts.items()
                    if count
                ],
                class_="lead",
                aria_label="customers by state",
            ),
            class_=f"verdict {look_of(worst).name}",
        ),
        element(
            "main",
            element(
                "input",
                id="filter",
                type="search",
                hidden="hidden",
                placeholder="only customers with these words: a name, a cause, an address",
                aria_label="only customers with these words",
            ),
            [_part(state, [each for each in customers if each["state"] == state]) for state in STATES if counts[state]],
            _explanations(causes, docs) if causes else None,
        ),
        element("footer", element("span", status["inventory"]), element("a", "status.json", href="status.json")),
        element("script", SCRIPT),
    )


def _count(count: int, state: str) -> str:
    return f"{count} {HEADINGS[state][:1].lower()}{HEADINGS[state][1:]}"


def _readable(at: str) -> str:
    return f"{at[:10]} {at[11:16]} UTC"


def _anchor(state: str) -> str:
    return state.replace(" ", "-")


def _part(state: str, customers: list[Entry]) -> Child:
    look = look_of(state)
    heads = ("customer", "cause", "proxies", "certificate", "Microsoft's OPTIONS")
    return element(
        "section",
        element("h2", symbol(look), f"{HEADINGS[state]}: {len(customers)}"),
        element(
            "table",
            element("thead", element("tr", [element("th", head, scope="col") for head in heads])),
            element("tbody", [_row(each, look) for each in customers]),
            class_="fleet",
        ),
        class_="card part",
        id=_anchor(state),
    )


def _row(each: Entry, look: Look) -> Child:
    report = each["report"] or {}
    return element(
        "tr",
        element(
            "th",
            element("b", each["customer"]),
            element("small", each["fqdn"]) if each["fqdn"] else None,
            element("small", each["address"]) if each["address"] else None,
            scope="row",
        ),
        element("td", _why(each, look)),
        element("td", _proxies(report), data_of="proxies"),
        element("td", _certificate(each, report), data_of="certificate"),
        element("td", _theirs(report), data_of="Microsoft's OPTIONS"),
        id=f"customer-{each['customer']}",
        class_=look.name,
    )


def _why(each: Entry, look: Look) -> Child:
    cause = each["cause"]
    if not cause:
        return [chip(look, each["state"]), *_remarks(each)]
    title = WORDS[cause].title if cause in WORDS else TITLES.get(cause, cause)
    return [
        chip(look, each["state"]),
        " ",
        element("a", element("b", title), href=f"#cause-{cause}") if cause in WORDS else element("b", title),
        element("small", each["evidence"]),
        element("small", element("b", "next step "), prose(each["next_step"] or "")),
        *_remarks(each),
    ]


def _remarks(each: Entry) -> list[Child]:
    remarks = (each["report"] or {}).get("remarks") or []
    said = [f"{remark['evidence']}. {remark['next_step']}" for remark in remarks]
    said += [problem] if (problem := (each["copy"] or {}).get("problem")) else []
    return [element("small", element("b", "also "), prose(text)) for text in said]


def _proxies(report: Mapping[str, Any]) -> Child:
    destinations = report.get("destinations") or []
    if not destinations:
        return "-"
    good = sum(each["verdict"] == "proven" for each in destinations)
    others = [
        element("small", f"{each['host'].partition('.')[0]}: {each['flags'] or '-'}")
        for each in destinations
        if each["verdict"] != "proven"
    ]
    return [f"{good} of {len(destinations)} proven", *others]


def _certificate(each: Entry, report: Mapping[str, Any]) -> Child:
    facts, renewal = report.get("certificate"), report.get("renewal")
    if not facts:
        return "-"
    said: list[Child] = [f"{facts['days_left']:.0f} days"]
    if renewal and renewal["failing"]:
        said.append(element("small", f"renewal fails: {renewal['cause']}"))
    if (shown := (each["copy"] or {}).get("shown")) and shown != "not needed":
        said.append(element("small", f"saved copy: {shown}"))
    return said


def _theirs(report: Mapping[str, Any]) -> Child:
    theirs = report.get("theirs")
    if not theirs:
        return "never" if report.get("destinations") else "-"
    age = theirs["age_s"]
    shown = f"{age:.0f} s" if age < 600 else f"{age / 60:.0f} min"
    return [f"{shown} before", element("small", f"from {theirs['source']}")]


def _prose(markdown: str) -> list[Child]:
    """A paragraph of the documentation; its links lead on from there, so that their words are enough here."""
    return prose(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown))


def _explanations(causes: list[str], docs: str) -> Child:
    return element(
        "section",
        element("h2", "What these causes mean"),
        element(
            "dl",
            [
                [
                    element("dt", WORDS[cause].title, " ", element("code", cause), id=f"cause-{cause}"),
                    element("dd", "What the probe saw: ", _prose(WORDS[cause].saw)),
                    element("dd", _prose(WORDS[cause].usually)),
                ]
                for cause in causes
            ],
        ),
        element(
            "p", element("a", "When it is not AP", href=f"{docs}/when-it-is-not-ap.md#every-cause"), class_="quiet"
        ),
        class_="card causes",
    )
