"""The metrics endpoint of ``coordinate``: a run as its event log tells it, for Prometheus to scrape."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lightning_fed.errors import ConfigError
from lightning_fed.simulation.progress import Event, EventTail, Progress

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_GONE = ("site_lost", "site_left", "site_refused")


class RunMetrics:
    """What one run is like now; the log is read on when somebody asks.

    Args:
        store: the coordinator's folder.
        turned_at: gives the Unix time of the last turn of the coordinator's loop.
    """

    def __init__(self, store: Path, turned_at: Callable[[], float]) -> None:
        self._tail, self._progress = EventTail(store / "events.jsonl"), Progress([])
        self._turned_at = turned_at
        self._lock = threading.Lock()  # each scrape has a thread of its own
        self._connected: set[str] = set()
        self._round = self._finished = self._failed = 0
        self._last_event = 0.0

    def collect(self) -> "Iterator[Metric]":
        """The metrics; ``prometheus_client`` calls this for every scrape."""
        with self._lock:
            try:
                events = self._tail.new()
            except OSError:
                events = []  # no file can be opened; what was known stays
            for event in events:
                self._progress.take(event)
                self._take(event)
            yield from list(self._metrics())

    def _take(self, event: Event) -> None:
        match event:
            case {"event": "started"}:
                self._connected.clear()
            case {"event": "site_joined", "site": site}:
                self._connected.add(site)
            case {"event": kind, "site": site} if kind in _GONE:
                self._connected.discard(site)
            case {"event": "round_started", "round": int(number)}:
                self._round = number
            case {"event": "round_finished" | "round_recovered"}:
                self._finished += 1
            case {"event": "round_failed"}:
                self._failed += 1
        with suppress(KeyError, TypeError, ValueError):  # a line that somebody else wrote
            self._last_event = datetime.fromisoformat(event["time"]).timestamp()

    def _metrics(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        sites, rounds = self._progress.sites, list(self._progress.rounds.values())
        yield Gauge("lightning_fed_rounds", "Rounds of the plan.", self._progress.planned or 0)
        yield Gauge("lightning_fed_round", "The round that was begun last.", self._round)
        yield Counter("lightning_fed_rounds_finished", "Rounds that gave a global model.", self._finished)
        yield Counter("lightning_fed_rounds_failed", "Attempts at a round that gave none.", self._failed)
        yield Gauge("lightning_fed_sites", "Sites of the roster.", len(sites))
        yield Gauge("lightning_fed_sites_connected", "Those that have joined and are not gone.", len(self._connected))
        connected = Gauge("lightning_fed_site_connected", "1 if it has joined and is not gone.", labels=["site"])
        for site in sites:
            connected.add_metric([site], site in self._connected)
        yield connected
        up, down = (sum(getattr(each, name) or 0 for each in rounds) for name in ("bytes_up", "bytes_down"))
        yield Counter("lightning_fed_received_bytes", "Bytes from sites in the finished rounds.", up)
        yield Counter("lightning_fed_sent_bytes", "Bytes to sites in the finished rounds.", down)
        if timed := [each.seconds for each in rounds if each.seconds is not None]:
            yield Gauge("lightning_fed_round_duration_seconds", "Length of the newest finished round.", timed[-1])
        metrics = Gauge("lightning_fed_model_metric", "The plan's metrics of a global model.", labels=["metric"])
        if measured := [each for each in rounds if each.metrics]:
            yield Gauge("lightning_fed_model_version", "The global model that was measured last.", measured[-1].number)
            for name, value in measured[-1].metrics.items():
                metrics.add_metric([name], value)
            yield metrics
        if self._last_event:
            yield Gauge(
                "lightning_fed_last_event_timestamp_seconds", "When the log got its last line.", self._last_event
            )
        yield Gauge("lightning_fed_heartbeat_timestamp_seconds", "When the coordinator last turned.", self._turned_at())


class Endpoint:
    """An HTTP server for scrapes, in a thread of its own, from now until the end of the block.

    Args:
        metrics: what it tells.
        host: where to listen.
        port: likewise; 0 for a free one.

    Attributes:
        url: where it can be asked.

    Raises:
        ConfigError: ``prometheus_client`` is not installed, or the address cannot be listened at.
    """

    def __init__(self, metrics: RunMetrics, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
        except ImportError as error:
            raise ConfigError(
                f"metrics_port = {port} needs prometheus_client: pip install 'lightning_fed[metrics]'."
            ) from error
        registry = CollectorRegistry()
        registry.register(metrics)
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics cannot be served at {host}, port {port}: {error}. Choose another metrics_port (metrics_host)."
            ) from error
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._server.server_port}/metrics"

    def __enter__(self) -> "Endpoint":
        """Serve; it has begun already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
