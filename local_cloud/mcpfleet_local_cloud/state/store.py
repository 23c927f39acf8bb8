"""The database of the local cloud: JSON documents by kind and name, in one SQLite file.

Every write is one transaction and is on disk when the call returns, so that a `kill -9` loses nothing that a response
has confirmed. Calls are synchronous: they take microseconds, and the server is one process with one event loop.
"""

import json
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

Document = dict[str, Any]

Key = TypeVar("Key")
Value = TypeVar("Value")
_MAX_ENTRIES: Final = 1024


class Store:
    """Documents by (kind, name); if *path* is None, they are in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL: a write survives a power cut, too. A whole deployment is only a few hundred writes.
        self._db.execute("PRAGMA synchronous=FULL")
        # Overwrite deleted content in the file: documents contain environment values.
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)
        self._depth = 0
        self.version = 0
        """A number that changes with each change of a document, including one that is rolled back."""

    def get(self, kind: str, name: str) -> Document | None:
        """Return the document, or None."""
        row = self._db.execute("SELECT body FROM documents WHERE kind=? AND name=?", (kind, name)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, kind: str, name: str, body: Document) -> None:
        """Write the document, whether it exists or not."""
        self.version += 1
        self._db.execute(
            "INSERT INTO documents VALUES (?,?,?) ON CONFLICT (kind, name) DO UPDATE SET body=excluded.body",
            (kind, name, json.dumps(body, separators=(",", ":"))),
        )

    def insert(self, kind: str, name: str, body: Document) -> bool:
        """Write the document if none has that name; return False if one has."""
        self.version += 1
        cursor = self._db.execute(
            "INSERT OR IGNORE INTO documents VALUES (?,?,?)",
            (kind, name, json.dumps(body, separators=(",", ":"))),
        )
        return cursor.rowcount == 1

    def delete(self, kind: str, name: str) -> bool:
        """Delete the document; return False if there was none."""
        self.version += 1
        return self._db.execute("DELETE FROM documents WHERE kind=? AND name=?", (kind, name)).rowcount == 1

    def list(self, kind: str, prefix: str = "") -> list[tuple[str, Document]]:
        """List every (name, document) of *kind* whose name begins with *prefix*, sorted by name."""
        rows = self._db.execute(
            "SELECT name, body FROM documents WHERE kind=? AND substr(name,1,?)=? ORDER BY name",
            (kind, len(prefix), prefix),
        )
        return [(name, json.loads(body)) for name, body in rows]

    def count_by_kind(self) -> dict[str, int]:
        """Count the documents of each kind."""
        return dict(self._db.execute("SELECT kind, count(*) FROM documents GROUP BY kind ORDER BY kind"))

    def next_number(self, counter: str) -> int:
        """Return the next number of *counter*, from 1. No number is returned twice, not even after a restart."""
        row = self._db.execute(
            "INSERT INTO counters VALUES (?,1) ON CONFLICT (name) DO UPDATE SET value=value+1 RETURNING value",
            (counter,),
        ).fetchone()
        return int(row[0])

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make several writes atomic: all of them are kept, or none. May be nested."""
        self._depth += 1
        if self._depth == 1:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._depth == 1:
                self._db.execute("ROLLBACK")
                self.version += 1
            raise
        else:
            if self._depth == 1:
                self._db.execute("COMMIT")
        finally:
            self._depth -= 1

    def reset(self) -> None:
        """Delete everything."""
        self.version += 1
        with self.transaction():
            self._db.execute("DELETE FROM documents")
            self._db.execute("DELETE FROM counters")

    def vacuum(self) -> None:
        """Rewrite the file, so that neither it nor its log contains deleted data."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class StoreCache(Generic[Key, Value]):
    """Values computed from a store, cached until any document in it changes.

    Users must not modify the values.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = store.version
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value that was `put` since the store last changed, or None."""
        if self._version != self._store.version:
            self._values.clear()
            self._version = self._store.version
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Cache a value that was computed from the current content of the store."""
        if self._version != self._store.version or len(self._values) >= _MAX_ENTRIES:
            self._values.clear()
            self._version = self._store.version
        self._values[key] = value
