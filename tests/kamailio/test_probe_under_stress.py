"""The probe beside a real Kamailio to which bad things happen: it stays up and says the truth."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kamailio import handshakes
from tests.kamailio.running import FQDN, Sbc, Start, needs_kamailio, wait_for
from tests.kamailio.world import Hands, Probe, Shears, Surroundings, needs_faketime, start_again, tell_all

pytestmark = [needs_kamailio, needs_faketime]
DAY = 86400.0


class Scene:
    """Kamailio, its surroundings and a probe that has proven it all."""

    def __init__(self, sbc: Sbc, around: Surroundings, hands: Hands, probe: Probe) -> None:
        self.sbc, self.around, self.hands, self.probe = sbc, around, hands, probe


@pytest.fixture
def scene(start: Start, directory: Path) -> Iterator[Callable[..., Scene]]:
    """Begin: `scene(settings)`, with settings of the probe's that differ, made once Kamailio runs."""
    with contextlib.ExitStack() as stack:

        def begin(settings: Callable[[Sbc], dict[str, Any]] = lambda _: {}) -> Scene:
            around, hands = stack.enter_context(Surroundings()), Hands(directory)
            sbc = start(environment=hands.environment, sbc_options_interval=1)
            handshakes.issue(directory, "sbc", FQDN, FQDN)
            sbc.rpc("tls.reload")
            around.calls(sbc)
            probe = Probe(sbc, hands, **settings(sbc))
            process = stack.enter_context(probe.serving())
            probe.waits_for("proven")
            stack.callback(lambda: _assert_up(process.poll(), probe))
            return Scene(sbc, around, hands, probe)

        yield begin


def _assert_up(code: int | None, probe: Probe) -> None:
    assert code is None, (probe.directory / "probe.log").read_text()
    assert "Traceback" not in (probe.directory / "probe.log").read_text()


def test_a_kamailio_that_is_stopped_is_said_to_hang(scene: Callable[..., Scene]) -> None:
    stage = scene()
    tell_all(stage.sbc, signal.SIGSTOP)
    try:
        stage.probe.waits_for("failed", "kamailio_rpc", lambda: _assert_healthy(stage.probe))
        code, report = stage.probe.check()
        assert (code, report["overall"]["cause"]) == (1, "kamailio_rpc")
        assert "nothing answers there" in report["overall"]["evidence"]
        assert nothing_known_of_destinations(report)
    finally:
        tell_all(stage.sbc, signal.SIGCONT)
    stage.probe.waits_for("proven")


def nothing_known_of_destinations(report: dict[str, Any]) -> bool:
    return all(
        (one["flags"], one["latency_ms"], one["answer_code"]) == (None, None, None) and one["verdict"] != "proven"
        for one in report["destinations"]
    )


def _assert_healthy(probe: Probe) -> None:
    assert probe.healthy()


def test_a_kamailio_that_is_killed_is_said_to_be_down_until_it_is_back(scene: Callable[..., Scene]) -> None:
    stage = scene()
    tell_all(stage.sbc, signal.SIGKILL)
    stage.probe.waits_for("failed", "kamailio_down", lambda: _assert_healthy(stage.probe))
    code, report = stage.probe.check()
    assert (code, report["overall"]["cause"]) == (1, "kamailio_down")
    start_again(stage.sbc, stage.hands)
    stage.probe.waits_for("proven")
    assert wait_for(lambda: stage.probe.check()[0] == 0)


def test_answers_that_are_cut_short_are_no_answers(scene: Callable[..., Scene]) -> None:
    shears = []

    def between(sbc: Sbc) -> dict[str, Any]:
        shears.append(Shears(sbc))
        return {"rpc_socket": f"/{shears[0].path.relative_to(sbc.directory.parents[1])}"}

    stage = scene(between)
    with contextlib.closing(shears[0]):
        for left in (40, 2000):
            shears[0].left = left
            stage.probe.waits_for("failed", "kamailio_rpc", lambda: _assert_healthy(stage.probe))
            report = stage.probe.status()
            assert "form that is not known" in report["overall"]["evidence"]
            assert report["theirs"] is None
            assert nothing_known_of_destinations(report)
            shears[0].left = None
            stage.probe.waits_for("proven")


@pytest.mark.full
@pytest.mark.parametrize("days", [1, -1])
@pytest.mark.parametrize("server", ["with a time server", "without one"])
def test_a_clock_that_is_moved_by_a_day_proves_nothing(scene: Callable[..., Scene], days: int, server: str) -> None:
    stage = scene(lambda _: {} if server == "with a time server" else {"time_servers": []})

    def never_proven_by_a_wrong_clock() -> None:
        _assert_healthy(stage.probe)
        report = stage.probe.status()
        taken = datetime.fromisoformat(report["taken_at"]).timestamp()
        assert abs(taken - time.time()) < DAY / 2 or report["overall"]["state"] != "proven", report

    stage.hands.move(days * DAY)
    stage.probe.waits_for("failed", "clock_wrong", never_proven_by_a_wrong_clock)
    until = time.monotonic() + 10
    while time.monotonic() < until:
        never_proven_by_a_wrong_clock()
        assert stage.probe.says("failed", "clock_wrong")
        time.sleep(0.5)
    code, report = stage.probe.check()
    if server == "with a time server" or days < 0:
        assert (code, report["overall"]["cause"]) == (1, "clock_wrong")
    stage.hands.move(0)
    stage.probe.waits_for("proven", meanwhile=never_proven_by_a_wrong_clock)
