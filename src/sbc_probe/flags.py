"""Kamailio's dispatcher flags in words (module dispatcher, 6.0): first the state, then the probing."""

from __future__ import annotations

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
PAIR = {
    "AP": "active, probed: answers our OPTIONS",
    "AX": "active by assumption: loaded, not yet proven by an answer",
    "AN": "active by assumption: excluded from OPTIONS, so never proven",
    "TP": "trying: failing, the threshold is not reached, still probed",
    "TX": "trying: failing, the threshold is not reached",
    "TN": "trying: failing, excluded from OPTIONS",
    "IP": "inactive: no answer or a refusal, still probed",
    "IX": "set inactive by the administrator, not probed",
    "IN": "inactive, excluded from OPTIONS: nothing will bring it back",
    "DP": "disabled by the administrator, still probed",
    "DX": "disabled by the administrator",
    "DN": "disabled by the administrator, excluded from OPTIONS",
}


def meaning(flags: str) -> str:
    """Say what a pair of dispatcher flags means; unknown letters are named as such."""
    if flags in PAIR:
        return PAIR[flags]
    state, probing = flags[:1], flags[1:]
    return f"{STATE.get(state, f'unknown state {state!r}')}, {PROBING.get(probing, f'unknown probing {probing!r}')}"
