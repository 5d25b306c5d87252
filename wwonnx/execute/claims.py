"""Which layers other processes are at, so that two that share a store don't do the same work.

A claim is a lock on one byte of a file beside the store. The system gives it up with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType


class Claims:
    """The claims of one run. Where the system has no such locks, every claim is granted, and work may be done twice."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(store.name + "-claims")
        self._file = self._path.open("a+b")
        self._own: set[bytes] = set()

    def take(self, key: bytes) -> bool:
        """Claim what has this key; whether nobody else has."""
        if key not in self._own and not self._lock(_place(key)):
            return False
        self._own.add(key)
        return True

    def release(self, key: bytes) -> None:
        """Let others have it."""
        if key in self._own:
            self._own.discard(key)
            self._unlock(_place(key))

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._own):
            self.release(key)
        if self._lock(0, whole=True):  # nobody else uses it
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._file.close()

    if sys.platform == "win32":

        def _lock(self, place: int, whole: bool = False) -> bool:
            return not whole

        def _unlock(self, place: int) -> None:
            pass

    else:

        def _lock(self, place: int, whole: bool = False) -> bool:
            import fcntl

            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 0 if whole else 1, place)
            except OSError:
                return False
            return True

        def _unlock(self, place: int) -> None:
            import fcntl

            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)


def _place(key: bytes) -> int:
    return int.from_bytes(key[:7], "little")
