"""Metrics of a server, and its log: one line of JSON per request, without any of its content."""

import json
import logging
import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

LOG = logging.getLogger("foveate.serve")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Prometheus metrics of one server.

    Args:
        waiting: Returns the number of questions that wait for the model.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory and CPU time of the process
        labels = ["path", "status"]
        self.requests = Counter("foveate_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "foveate_request_seconds",
            "Time from a request's head to the end of its answer.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.bytes = Counter("foveate_received_bytes", "Bytes of requests' bodies.", registry=registry)
        self.pictures = Histogram(
            "foveate_pictures_together",
            "Pictures the model was asked about together.",
            registry=registry,
            buckets=_PICTURES,
        )
        self.open = Gauge("foveate_requests_open", "Requests at work or waiting.", registry=registry)
        gauge = Gauge("foveate_questions_waiting", "Questions that wait for the model.", registry=registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= getattr(record, "fields", {}) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Write the server's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_AsJson())
    for name, level in ((LOG.name, logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_request(**fields: object) -> None:
    """Log one request; fields must hold nothing that a client has sent, except its size."""
    LOG.info("request", extra={"fields": fields})


def since(start: float) -> float:
    """Return the seconds since a `time.perf_counter()` value, rounded to milliseconds."""
    return round(time.perf_counter() - start, 3)
