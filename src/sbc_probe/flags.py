"""Kamailio's dispatcher flags in words (module dispatcher, 6.0): first the state, then the probing.

`PAIRS` is the one table of them: reports show the short words, docs/states.md and `sbc-probe explain` the long ones.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

STATE = {
    "A": "active",
    "T": "trying: an OPTIONS went unanswered or was refused, the threshold is not reached",
    "I": "inactive",
    "D": "disabled by the administrator",
}
PROBING = {
    "P": "probed with OPTIONS",
    "X": "not probed",
    "N": "excluded from OPTIONS by its attributes",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """`short`: in few words; `means`: for calls and the proof; `usually`: what leads to it here; `do`: what to do."""

    short: str
    means: str
    usually: str
    do: str


_EDITED = "Not made by this configuration: somebody gave the record the attribute or flag in `dispatcher.list`."
_RUN = "Run site.yml, which installs the list again and lets Kamailio read it."
_AGAIN = "When the maintenance is over: `kamcmd dispatcher.set_state ap 1 'sip:HOST:5061;transport=tls'`."
PAIRS = {
    "AP": Pair(
        "active, probed: answers our OPTIONS",
        "Calls may go there. Good, but no proof: some answer came at some time. `proven` says more: a recent one came, "
        "from a peer with the right name, Microsoft's own OPTIONS come too, and the certificate is in order.",
        "All is well; or its answers have just stopped and the next OPTIONS has not yet shown it; or somebody set it "
        "by hand; or its record has the flag 8, with which it is AP before any answer.",
        "`sbc-probe check`: if it does not say proven, it says why.",
    ),
    "AX": Pair(
        "active by assumption: loaded, not yet proven by an answer",
        "Calls would go there, though nobody knows whether it answers.",
        "Kamailio has just started or read its list anew. After a start it asks every proxy at once, so this lasts for "
        "seconds, after a reload for up to an interval. The first failure makes it TP, the second IP.",
        "Wait one interval between two OPTIONS (60 s). If it stays: `sbc-probe check` names the cause.",
    ),
    "AN": Pair(
        "active by assumption: excluded from OPTIONS, so never proven",
        "Calls go there for ever, whether it answers or not. Never proven.",
        _EDITED,
        _RUN,
    ),
    "TP": Pair(
        "trying: failing, the threshold is not reached, still probed",
        "Calls still go there. One OPTIONS was lost or refused; the next one decides.",
        "A lost packet, a connection that was closed and is opened anew, a proxy under maintenance, or the first "
        "moment of what will be IP.",
        "Wait one interval (60 s): it becomes AP or IP by itself. If it comes and goes, it is `proxy_flapping`.",
    ),
    "TX": Pair(
        "trying: failing, the threshold is not reached",
        "Calls still go there. This configuration asks it all the same: the next OPTIONS makes it AP, TP or IP.",
        "Kamailio itself makes TP here. Somebody used `kamcmd dispatcher.set_state tx`, or gave its record in "
        "`dispatcher.list` the flag 2.",
        "Wait one interval (60 s), or ask now: `kamcmd evrexec.run evrexec:ping`.",
    ),
    "TN": Pair(
        "trying: failing, excluded from OPTIONS",
        "A call failed there, and no OPTIONS will tell when it is well again.",
        _EDITED,
        _RUN,
    ),
    "IP": Pair(
        "inactive: no answer or a refusal, still probed",
        "No call goes there. It comes back by itself with the first good answer.",
        "Two quite different things, which the latency block of `kamcmd dispatcher.list` tells apart: `TIMEOUT` above "
        "0 means that nothing came back (the way is closed, TLS fails, or silence); `TIMEOUT: 0` means that an answer "
        "came and it was a refusal, typically 403, or that its certificate does not carry its name.",
        "`sbc-probe check` tells all of these apart and names the next step.",
    ),
    "IX": Pair(
        "set inactive by the administrator, not probed",
        "No call goes there. This configuration asks it all the same, so the next good answer makes it AP.",
        "Somebody used `kamcmd dispatcher.set_state ix`, or gave its record in `dispatcher.list` the flag 1.",
        _AGAIN,
    ),
    "IN": Pair(
        "inactive, excluded from OPTIONS: nothing will bring it back",
        "No call goes there, and nothing will change that by itself.",
        _EDITED,
        _RUN,
    ),
    "DP": Pair(
        "disabled by the administrator, marked to be probed",
        "No call goes there and no OPTIONS either, in spite of the P.",
        "Its record in `dispatcher.list` has the flags 4 and 8: somebody edited it. `set_state dp` makes DX of it.",
        _RUN,
    ),
    "DX": Pair(
        "disabled by the administrator",
        "No call goes there and no OPTIONS either, until somebody enables it. A reload or start does, too.",
        "Somebody used `kamcmd dispatcher.set_state dx`, for a maintenance or to keep calls away from a proxy.",
        _AGAIN,
    ),
    "DN": Pair(
        "disabled by the administrator, excluded from OPTIONS",
        "No call goes there, and after it is enabled nobody would know whether it answers.",
        _EDITED,
        _RUN,
    ),
}


def meaning(flags: str) -> str:
    """Say in short what a pair of dispatcher flags means; unknown letters are named as such."""
    if flags in PAIRS:
        return PAIRS[flags].short
    state, probing = flags[:1], flags[1:]
    return f"{STATE.get(state, f'unknown state {state!r}')}, {PROBING.get(probing, f'unknown probing {probing!r}')}"


def explain(text: str, width: int = 100) -> str | None:
    """The words for a pair of flags, a cause or the reason of a renewal's failure; None for anything else."""
    # Only whoever asks for them needs the words of the causes.
    from sbc_probe.findings import Cause
    from sbc_probe.words import WORDS, weight

    if pair := PAIRS.get(text.strip().upper()):
        parts = {"means": pair.means, "usually": pair.usually, "what to do": pair.do}
        return "\n".join([f"{text.strip().upper()}: {pair.short}", *_lines(parts, width)])
    name = text.strip().lower().replace("-", "_")
    if (words := WORDS.get(name)) is None:
        return None
    head = f"{name} ({weight(Cause(name))}): {words.title}" if words.title else f"{name}: why a renewal fails"
    return "\n".join([head, *_lines({"the probe saw": words.saw, "usually": words.usually}, width)])


def _lines(parts: dict[str, str], width: int) -> list[str]:
    """Labelled paragraphs. Links are for the page in docs/: their words are enough here."""
    indent = max(len(label) for label in parts) + 4
    lines = []
    for label, words in parts.items():
        lines += textwrap.wrap(
            re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words),
            width,
            initial_indent=f"  {label:<{indent - 2}}",
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
