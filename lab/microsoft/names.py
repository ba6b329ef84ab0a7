"""Names to IPv4 addresses, as Microsoft's resolver sees them."""

from __future__ import annotations

import asyncio
import logging

import dns.asyncresolver
import dns.exception
import dns.rdatatype

log = logging.getLogger(__name__)

TTL = 2.0
LIFETIME = 2.0


class Resolver:
    """Asks one name server, `address` or `address:port`; an answer counts for TTL seconds, an absence too."""

    def __init__(self, server: str) -> None:
        address, _, port = server.partition(":")
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [address]
        self._resolver.port = int(port or 53)
        self._resolver.lifetime = LIFETIME
        self._answers: dict[str, tuple[float, asyncio.Future[frozenset[str]]]] = {}

    async def addresses(self, name: str) -> frozenset[str]:
        """The A records of `name`, aliases followed; none if there are none or no answer came."""
        now = asyncio.get_running_loop().time()
        expires, answer = self._answers.get(name, (0.0, None))
        if answer is None or expires < now:
            answer = asyncio.ensure_future(self._query(name))
            self._answers[name] = (now + TTL, answer)
        return await asyncio.shield(answer)

    async def _query(self, name: str) -> frozenset[str]:
        try:
            answer = await self._resolver.resolve(name, dns.rdatatype.A, raise_on_no_answer=False, search=False)
        except (dns.exception.DNSException, OSError) as exc:
            log.debug("%s: %s", name, exc)
            return frozenset()
        return frozenset(record.address for record in answer.rrset or ())
