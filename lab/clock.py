"""The lab's time server, at the names of Debian's pool (RFC 5905, as a server for clients that only ask).

Droplets share the machine's clock, which no lab may set. So it is the server that is wrong where the clock shall be:
seen from the droplet there is no difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import struct
import time
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from lab.http import body_of, errors_as_json

PORT = 123
PACKET = struct.Struct(">BBbbII4sQQQQ")
# Version 4, mode 4: a server's answer to mode 3.
CLIENT, ANSWER = 3, 0x24
# Seconds from 1900 to 1970.
EPOCH = 2208988800


class TimeServer(asyncio.DatagramProtocol):
    """Tells a time that is `ahead` seconds ahead of the machine's, or nothing while it is `silent`."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.silent = False
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        if len(data) < PACKET.size or data[0] & 7 != CLIENT:
            return
        self.asked += 1
        if self.silent:
            return
        now = int((time.time() + self.ahead + EPOCH) * 2**32) % 2**64
        (origin,) = struct.unpack_from(">Q", data, 40)
        self._transport.sendto(PACKET.pack(ANSWER, 2, 6, -20, 0, 0, b"LAB\0", now, origin, now, now), address)


def make_control(server: TimeServer) -> web.Application:
    """HTTP routes: GET and PUT /state, {"ahead": seconds, "silent": bool}; GET also says how often it was `asked`."""

    def state() -> dict[str, Any]:
        return {"ahead": server.ahead, "silent": server.silent, "asked": server.asked}

    async def get(request: web.Request) -> web.Response:
        return web.json_response(state())

    async def put(request: web.Request) -> web.Response:
        body = await body_of(request, ahead=(int, float), silent=bool)
        server.ahead, server.silent = float(body.get("ahead", 0.0)), body.get("silent", False)
        return web.json_response(state())

    app = web.Application(middlewares=[errors_as_json])
    app.add_routes([web.get("/state", get), web.put("/state", put)])
    return app


async def serve(address: str, control: Path) -> None:
    """Answer until SIGTERM."""
    server, stop = TimeServer(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await loop.create_datagram_endpoint(lambda: server, (address, PORT))
    runner = web.AppRunner(make_control(server), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(control)).start()
    print(json.dumps({"listening": f"{address}:{PORT}"}), flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The lab's time server.")
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--control", required=True, type=Path, metavar="SOCKET")
    options = parser.parse_args()
    asyncio.run(serve(options.listen, options.control))
