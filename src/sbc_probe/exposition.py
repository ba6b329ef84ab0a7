"""prometheus_client without its servers: what a collector needs, and the texts of a registry.

The library also imports a WSGI server, a URL opener and http.server for uses of its own that nobody makes of it here:
5 MB in a process that may have 30. While it is imported, stand-ins take their places; afterwards the real ones can be
imported by whoever wants them.
"""

from __future__ import annotations

import sys
from types import ModuleType

UNUSED = ("gzip", "http.server", "urllib.error", "urllib.request", "wsgiref.simple_server")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


_stand_ins = {name: _StandIn(name) for name in UNUSED if name not in sys.modules}
sys.modules.update(_stand_ins)
try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
finally:
    for name in _stand_ins:
        del sys.modules[name]

__all__ = [
    "Collector",
    "CollectorRegistry",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "HistogramMetricFamily",
    "Metric",
    "ProcessCollector",
    "choose_encoder",
]
