"""What exporters say while they work: kept from the user's log and warnings, which stay as they were."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def collected(name: str) -> Iterator[list[str]]:
    """Collect what a library logs instead of letting it appear.

    Args:
        name: of its logger; those below it are collected too.
    """
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger = logging.getLogger(name)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [Collector()], False
    try:
        yield messages
    finally:
        logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Drop the warnings that exporters give about their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
