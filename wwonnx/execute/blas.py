"""How many threads BLAS has while a layer is computed: one for each of several layers, or all for one.

The number is the whole process's, and it changes the last bits of eigenvalues. So those who want one thread share
the process, and those who want all have it to themselves, from whichever thread, worker or analysis they come.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

_changed = threading.Condition()
_sharing = 0
_taken = False
_limits = contextlib.ExitStack()
#: Whether what limits the libraries was made after scipy had brought its own.
_limits_scipy = False


@contextlib.contextmanager
def one_thread_each(with_scipy: bool) -> Iterator[None]:
    """BLAS has one thread in each of the threads that are in here at the same time.

    Args:
        with_scipy: whether scipy's BLAS is needed. It is loaded first: a library that is not there can't be limited.
    """
    global _sharing, _limits_scipy  # noqa: PLW0603
    if with_scipy:
        import scipy.linalg.cython_blas  # noqa: F401
    with _changed:
        while _taken:
            _changed.wait()
        if not _sharing or (with_scipy and not _limits_scipy):
            _limit(1)
            _limits_scipy = "scipy.linalg.cython_blas" in sys.modules
        _sharing += 1
    try:
        yield
    finally:
        with _changed:
            _sharing -= 1
            if not _sharing:
                _limits.close()
            _changed.notify_all()


@contextlib.contextmanager
def all_threads(most: int | None = None) -> Iterator[None]:
    """BLAS has all threads that the process gives it, and nothing else of this package runs in the process.

    Args:
        most: no more than so many; None for no limit.
    """
    global _taken  # noqa: PLW0603
    with _changed:
        while _taken or _sharing:
            _changed.wait()
        _taken = True
        if most is not None:
            import scipy.linalg.cython_blas  # noqa: F401

            _limit(most)
    try:
        yield
    finally:
        with _changed:
            _taken = False
            _limits.close()
            _changed.notify_all()


def _limit(threads: int) -> None:
    controller = _libraries(len(sys.modules))
    most = {library.filepath: library.num_threads for library in controller.lib_controllers}
    _limits.enter_context(controller.limit(limits=min([threads, *most.values()]), user_api="blas"))


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> Any:
    """The BLAS libraries that are loaded; a look through the process's maps that is worth keeping until more are."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
