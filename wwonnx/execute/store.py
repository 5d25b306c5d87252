"""Results that survive: one SQLite file, to which each layer is committed as soon as it is done.

A rollback journal and `synchronous = EXTRA`: what is committed survives the process and the power, one file is all
that there is when nobody writes, and it can be opened on a full disk.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import StoreError
from ..spectral.esd import Array, Spectrum
from ..version import __version__
from .content import Keys

#: "wwnx": tells a store from other SQLite files.
APPLICATION_ID = 0x77776E78
SCHEMA_VERSION = 1
#: Up to so many eigenvalues are kept in float64: a new fit gives every bit that it would have given at first. Of more,
#: float32 is kept: enough for plots and exports; a new fit computes them again.
EXACT = 1 << 20
#: Seconds to wait for another process that is writing.
_PATIENCE = 60.0

_SCHEMA = """
CREATE TABLE spectra (
    key BLOB PRIMARY KEY, matrices INTEGER NOT NULL, type TEXT NOT NULL, eigenvalues BLOB NOT NULL, ranks BLOB NOT NULL,
    errors BLOB
) WITHOUT ROWID;
CREATE TABLE results (
    key BLOB PRIMARY KEY, spectrum BLOB NOT NULL REFERENCES spectra, version TEXT NOT NULL, options TEXT NOT NULL,
    rows TEXT NOT NULL, created TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE layers (
    model TEXT NOT NULL, options TEXT NOT NULL, layer_id INTEGER NOT NULL, name TEXT NOT NULL, about TEXT NOT NULL,
    result BLOB NOT NULL REFERENCES results, seen TEXT NOT NULL, PRIMARY KEY (model, options, layer_id, name)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Use:
    """A layer of a model, and where its results are.

    Attributes:
        model: path of the model, or its kind.
        about: the columns that say which layer it is.
        keys: of its results.
    """

    model: str
    about: dict[str, Any]
    keys: Keys


@dataclass(frozen=True)
class Kept:
    """One layer of a model as a store has it.

    Attributes:
        model: path of the model, or its kind.
        options: the options that matter and were not at their defaults.
        about: the columns that say which layer it is.
        rows: the other columns, a dictionary per row.
        version: of wwonnx.
        created: when it was computed, UTC in ISO 8601.
        spectrum: key of its eigenvalues.
    """

    model: str
    options: dict[str, Any]
    about: dict[str, Any]
    rows: list[dict[str, Any]]
    version: str
    created: str
    spectrum: bytes


class Store:
    """A store of results. Used from one thread; several processes may share the file."""

    def __init__(self, path: str | Path, create: bool = True) -> None:
        """Open a store.

        Args:
            path: the file.
            create: make one where there is none.

        Raises:
            StoreError: there is none, or the file is no store; nothing is changed in it then.
        """
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise StoreError(f"{self.path}: no such store; check the path")
        self._check()
        with self._speaking():
            self._connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def result(self, key: bytes) -> list[dict[str, Any]] | None:
        """The rows of a layer without the columns that say which layer it is; None where they are not kept."""
        with self._speaking():
            found = self._connection.execute("SELECT rows FROM results WHERE key = ?", (key,)).fetchone()
        return None if found is None else list(json.loads(found[0]))

    def spectrum(self, key: bytes) -> Spectrum | None:
        """The eigenvalues of a layer bit for bit as they were computed; None where they are not kept so."""
        found = self._eigenvalues(key)
        return None if found is None or found[1] != "f8" else found[0]

    def eigenvalues(self, key: bytes) -> Array | None:
        """All eigenvalues of a layer, ascending, before any scaling; None where they are not kept.

        More than `EXACT` of them have float32's precision.
        """
        found = self._eigenvalues(key)
        return None if found is None else found[0].pooled

    def keep(
        self,
        use: Use,
        options: dict[str, Any],
        rows: list[dict[str, Any]] | None = None,
        spectrum: Spectrum | None = None,
    ) -> None:
        """Commit a layer that is done, or that a model has results that are kept already.

        Args:
            use: which layer of which model it is.
            options: those that matter.
            rows: the columns that don't say which layer it is.
            spectrum: its eigenvalues.
        """
        with self._transaction():
            run = self._connection.execute
            if rows is not None and spectrum is not None:
                values = spectrum.eigenvalues
                kind = "f8" if values.size <= EXACT else "f4"
                arrays = values.astype(f"<{kind}"), spectrum.ranks.astype("<i8")
                kept = (zlib.compress(array.tobytes(), 6) for array in arrays)
                errors = None if spectrum.errors is None else spectrum.errors.astype("<f8").tobytes()
                run(
                    "INSERT OR IGNORE INTO spectra VALUES (?, ?, ?, ?, ?, ?)",
                    (use.keys.spectrum, len(values), kind, *kept, errors),
                )
                result = __version__, _text(options), json.dumps(rows, default=_plain), _now()
                run(
                    "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)",
                    (use.keys.result, use.keys.spectrum, *result),
                )
            run(
                "INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(use.model, _text(options), use.about["layer_id"], use.about["name"]),
                    *(json.dumps(use.about, default=_plain), use.keys.result, _now()),
                ),
            )

    def all(self, model: str = "*") -> list[Kept]:
        """Every layer that is kept, by model, options and layer.

        Args:
            model: a pattern that the model's path matches, with * and ?.
        """
        with self._speaking():
            found = self._connection.execute(
                "SELECT model, layers.options, about, rows, version, created, spectrum FROM layers JOIN results "
                "ON results.key = layers.result WHERE model GLOB ? "
                "ORDER BY model, length(layers.options), layers.options, layer_id, name",
                (model,),
            ).fetchall()
        return [
            Kept(model, json.loads(options), json.loads(about), json.loads(rows), version, created, spectrum)
            for model, options, about, rows, version, created, spectrum in found
        ]

    def prune(self, model: str | None = None, other_versions: bool = False) -> tuple[int, int]:
        """Drop what is not wanted any more, and give the room back.

        Args:
            model: drop the models that match this pattern.
            other_versions: drop what other versions of wwonnx computed.

        Returns:
            How many results and spectra went. Those that another model needs stay; those that none does go.
        """
        with self._transaction():
            run = self._connection.execute
            if model is not None:
                run("DELETE FROM layers WHERE model GLOB ?", (model,))
            if other_versions:
                run("DELETE FROM layers WHERE result IN (SELECT key FROM results WHERE version <> ?)", (__version__,))
            results = run("DELETE FROM results WHERE key NOT IN (SELECT result FROM layers)").rowcount
            spectra = run("DELETE FROM spectra WHERE key NOT IN (SELECT spectrum FROM results)").rowcount
        with self._speaking():
            self._connection.execute("VACUUM")
        return results, spectra

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _eigenvalues(self, key: bytes) -> tuple[Spectrum, str] | None:
        with self._speaking():
            found = self._connection.execute(
                "SELECT matrices, type, eigenvalues, ranks, errors FROM spectra WHERE key = ?", (key,)
            ).fetchone()
        if found is None:
            return None
        matrices, kind, values, ranks, errors = found
        try:
            eigenvalues = np.frombuffer(zlib.decompress(values), f"<{kind}").astype(np.float64).reshape(matrices, -1)
            counted = np.frombuffer(zlib.decompress(ranks), "<i8").astype(np.intp)
            bounds = None if errors is None else np.frombuffer(errors, "<f8").astype(np.float64).reshape(matrices, -1)
        except (zlib.error, ValueError, TypeError) as error:
            raise StoreError(f"{self.path}: is damaged ({error}); move it away, and run again") from None
        return Spectrum(eigenvalues, counted, bounds), kind

    def _check(self) -> None:
        """Look at the head of the file before SQLite does anything with it.

        Raises:
            StoreError: it is no store.
        """
        try:
            if not self.path.exists():
                if not self.path.parent.is_dir():
                    raise StoreError(f"{self.path}: there is no directory {str(self.path.parent)!r}; make it first")
                return
            with self.path.open("rb") as file:
                head = file.read(100)
        except OSError as error:
            raise StoreError(f"{self.path}: can't be opened ({error.strerror or error}); name another file") from None
        if not head:
            return
        if len(head) < 100 or not head.startswith(b"SQLite format 3\0"):
            raise StoreError(f"{self.path}: is no store of results, and is left alone; name another file")
        version, application = struct.unpack(">I", head[60:64])[0], struct.unpack(">I", head[68:72])[0]
        if application != APPLICATION_ID:
            raise StoreError(f"{self.path}: is an SQLite file of something else, and is left alone; name another file")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: was made by a newer wwonnx (schema {version}); upgrade, or name another file"
            )

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA synchronous = EXTRA")
        if run("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        with self._transaction():
            if run("PRAGMA user_version").fetchone()[0] == 0:  # another process may have been faster
                for statement in _SCHEMA.split(";"):
                    run(statement)
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing."""
        with self._speaking():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """SQLite's errors in words for the user."""
        try:
            yield
        except sqlite3.OperationalError as error:
            reason = str(error)
            mend = "check the file and its folder"
            if "full" in reason or "I/O" in reason:
                mend = "the disk is full, or the file may grow no more: make room, and run again; what is in it is kept"
            elif "locked" in reason:
                mend = "another process has been writing for a minute; run again"
            raise StoreError(f"{self.path}: can't be used ({reason}): {mend}") from None
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path}: is damaged ({error}), and is left alone; name another file") from None


def _text(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's."""
    return value.item()
