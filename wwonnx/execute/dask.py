"""dask.distributed: workers on other machines, which the scheduler watches over."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ..errors import OptionError
from .remote import Pool

logger = logging.getLogger("wwonnx")

_INSTALL = "Dask is not installed: pip install 'wwonnx[dask]'"
#: Seconds to wait for a scheduler.
_PATIENCE = 10
#: How many workers a layer may lose before it is given up, where the scheduler's own limit is no lower.
_RETRIES = 3


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at "dask://host:port", closed afterwards.

    Raises:
        OptionError: it is no such address, or nobody answers.
    """
    scheme, separator, place = address.partition("://")
    if scheme != "dask" or not separator or not place:
        raise OptionError(f"executor={address!r}: give 'dask://host:port', a Client or a concurrent.futures.Executor")
    try:
        from distributed import Client
    except ImportError:
        raise OptionError(_INSTALL) from None
    try:
        client = Client(f"tcp://{place}", timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"executor={address!r}: no Dask scheduler answers there ({type(error).__name__}); start one with "
            "'dask scheduler', or check the address"
        ) from None
    with client:
        yield client


def pool(client: Any) -> Pool:
    """The workers of a client.

    Raises:
        OptionError: the client is none that can be used here, or has no workers.
    """
    from distributed import Client, KilledWorker

    if not isinstance(client, Client) or client.asynchronous:
        raise OptionError(f"executor={client!r}: give a synchronous dask.distributed.Client")
    if not client.nthreads():
        raise OptionError(
            "the Dask scheduler has no workers: start some with 'dask worker', and wait for them with "
            "client.wait_for_workers(n)"
        )
    known = set(client.nthreads())

    def lost() -> list[str]:
        now = set(client.nthreads())
        gone = sorted(known - now)
        known.difference_update(gone)
        known.update(now)
        notes = [f"the Dask worker {address} is gone: what it was at was computed elsewhere" for address in gone]
        for note in notes:
            logger.warning(note)
        return notes

    def workers() -> int:
        return sum(client.nthreads().values()) or 1

    return Pool(client.get_executor(pure=False, retries=_RETRIES), workers, lost=lost, deaths=(KilledWorker,))
