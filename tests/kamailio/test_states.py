"""What is said of the dispatcher's states, held against a real Kamailio with the product's configuration."""

from __future__ import annotations

from sbc_probe.flags import PAIRS, meaning
from tests.kamailio.running import PROXIES, Sbc, Start, needs_kamailio, wait_for

URI = f"sip:{PROXIES[0]}:5061;transport=tls"
# Flags of a record in dispatcher.list (module dispatcher), and how it then begins.
LOADED = {
    0: "AX",
    1: "IX",
    2: "TX",
    4: "DX",
    8: "AP",
    9: "IP",
    10: "TP",
    12: "DP",
    32: "AN",
    33: "IN",
    34: "TN",
    36: "DN",
}


def flags(sbc: Sbc) -> dict[int, str]:
    """The flags of each record by the number in its URI."""
    targets = sbc.rpc("dispatcher.list")["RECORDS"][0]["SET"]["TARGETS"]
    return {int(target["DEST"]["URI"].rpartition("=")[2]): target["DEST"]["FLAGS"] for target in targets}


@needs_kamailio
def test_every_state_is_one_that_kamailio_shows(start: Start) -> None:
    sbc = start([PROXIES[0]], sbc_options_interval=1)
    assert sorted(LOADED.values()) == sorted(PAIRS)
    # The OPTIONS of the start, which leave out nothing that is active, have come and gone.
    assert wait_for(lambda: sbc.flags() == ["AP"])
    records = "".join(f"1 {URI};n={number} {number} 1\n" for number in LOADED)
    (sbc.directory / "dispatcher.list").write_text(records)
    sbc.rpc("dispatcher.ping_active", 0)
    sbc.rpc("dispatcher.reload")
    assert flags(sbc) == LOADED
    sbc.rpc("dispatcher.ping_active", 1)
    # A good answer makes AP of what is asked; what is disabled or excluded stays as it is.
    stays = {number: pair for number, pair in LOADED.items() if pair[0] == "D" or pair[1] == "N"}
    assert wait_for(lambda: flags(sbc) == dict.fromkeys(LOADED, "AP") | stays)
    assert all("excluded" in meaning(pair) or "disabled" in meaning(pair) for pair in stays.values())


@needs_kamailio
def test_what_an_administrator_can_set(start: Start) -> None:
    sbc = start([PROXIES[0]], sbc_options_interval=3600)
    assert wait_for(lambda: sbc.flags() == ["AP"])
    shown = {}
    for state in ("ax", "ap", "tx", "tp", "ix", "ip", "dx", "dp"):
        sbc.rpc("dispatcher.set_state", state, 1, URI)
        shown[state] = sbc.flags()[0]
    assert shown == {state: state.upper() for state in shown} | {"dp": "DX"}
    sbc.rpc("dispatcher.reload")
    assert sbc.flags() == ["AX"]
