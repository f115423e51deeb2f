"""Figures of a role for Prometheus, on 127.0.0.1: what the role counts anyway, read when somebody asks.

Served by a thread of its own, so that a scrape never waits for the loop, and the loop never for a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headwater.app.engines.ports import PortTaken


class Figure(NamedTuple):
    """name without the prefix and without `_total`; labels, if any, are the same for each figure of a name."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    value: float
    labels: Mapping[str, str] = MappingProxyType({})


Figures = Callable[[], Iterable[Figure]]


class _Figures(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for figure in self._figures():
            family = families.get(figure.name)
            if family is None:
                made = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
                family = made(f"headwater_{figure.name}", figure.help, labels=tuple(figure.labels))
                families[figure.name] = family
            family.add_metric(tuple(figure.labels.values()), figure.value)
        return families.values()


def serve_metrics(port: int, figures: Figures, variable: str) -> AbstractContextManager[None]:
    """While the context lasts; port 0 = not at all. Raises PortTaken, which names the variable."""
    return _serving(port, figures, variable) if port else nullcontext()


@contextmanager
def _serving(port: int, figures: Figures, variable: str) -> Iterator[None]:
    registry = CollectorRegistry()
    for make in (ProcessCollector, PlatformCollector, GCCollector):
        make(registry=registry)
    registry.register(_Figures(figures))
    try:
        server, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another HEADWATER_{variable}"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
