"""The lab's time server, asked by the probe's own client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from lab import clock
from sbc_probe.clock import Answer, ask_servers


def asked(act: Callable[[TestClient[Any, Any], Callable[[], Any]], Any]) -> None:
    """Run a time server on loopback with its control interface, and let `act` use both."""

    async def scene() -> None:
        server = clock.TimeServer()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: server, ("127.0.0.1", 0), family=socket.AF_INET
        )
        port = transport.get_extra_info("sockname")[1]

        async def ask() -> Answer | None:
            return await asyncio.to_thread(ask_servers, ("127.0.0.1",), 0.5 if server.silent else 30, port)

        async with TestClient(TestServer(clock.make_control(server))) as client:
            await act(client, ask)
        transport.close()

    asyncio.run(scene())


def test_it_is_right_wrong_or_silent_as_it_is_told() -> None:
    async def act(client: TestClient[Any, Any], ask: Callable[[], Any]) -> None:
        for state, offset in (({}, 0), ({"ahead": 86400}, -86400), ({"ahead": -7200.5}, 7200.5), ({"ahead": 0}, 0)):
            assert (await client.put("/state", json=state)).status == 200
            found = await ask()
            assert found.offset == pytest.approx(offset, abs=5)
        await client.put("/state", json={"silent": True})
        assert await ask() is None
        state = await (await client.get("/state")).json()
        assert state == {"ahead": 0.0, "silent": True, "asked": 5}

    asked(act)


def test_what_makes_no_sense_is_refused() -> None:
    async def act(client: TestClient[Any, Any], ask: Callable[[], Any]) -> None:
        for body in ({"ahead": "much"}, {"behind": 3}, {"silent": 1}):
            assert (await client.put("/state", json=body)).status == 400
        assert (await ask()).offset == pytest.approx(0, abs=5)

    asked(act)


def test_only_questions_are_answered() -> None:
    server = clock.TimeServer()
    sent: list[bytes] = []

    class Transport(asyncio.DatagramTransport):
        def sendto(self, data: Any, addr: Any = None) -> None:
            sent.append(data)

    server.connection_made(Transport())
    for junk in (b"", b"\x23" * 47, b"\x24" + bytes(47)):
        server.datagram_received(junk, ("127.0.0.1", 1))
    assert (sent, server.asked) == ([], 0)
