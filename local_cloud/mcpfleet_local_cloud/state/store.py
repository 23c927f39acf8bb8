"""What the local cloud remembers: JSON documents by kind and name, in one SQLite file.

Every write is one transaction and is on disk when the call returns, so a `kill -9` loses no answer that a
caller has seen. Calls are synchronous: they take microseconds, and the server is one process, one event loop.
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
_REMEMBERED: Final = 1024


class Store:
    """Documents by (kind, name); *path* None keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL: a write survives a power cut as well; a few hundred writes make a whole deployment.
        self._db.execute("PRAGMA synchronous=FULL")
        # What is deleted or written over leaves the file: documents hold environment values.
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)
        self._depth = 0
        self.version = 0
        """Another number after each change of a document, also one that was taken back."""

    def get(self, kind: str, name: str) -> Document | None:
        """The document, or None."""
        row = self._db.execute("SELECT body FROM documents WHERE kind=? AND name=?", (kind, name)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, kind: str, name: str, body: Document) -> None:
        """Write the document, whether it was there or not."""
        self.version += 1
        self._db.execute(
            "INSERT INTO documents VALUES (?,?,?) ON CONFLICT (kind, name) DO UPDATE SET body=excluded.body",
            (kind, name, json.dumps(body, separators=(",", ":"))),
        )

    def insert(self, kind: str, name: str, body: Document) -> bool:
        """Write the document if there is none of that name; False where there is."""
        self.version += 1
        done = self._db.execute(
            "INSERT OR IGNORE INTO documents VALUES (?,?,?)",
            (kind, name, json.dumps(body, separators=(",", ":"))),
        )
        return done.rowcount == 1

    def delete(self, kind: str, name: str) -> bool:
        """Forget the document; False where there was none."""
        self.version += 1
        return self._db.execute("DELETE FROM documents WHERE kind=? AND name=?", (kind, name)).rowcount == 1

    def list(self, kind: str, prefix: str = "") -> list[tuple[str, Document]]:
        """Every (name, document) of *kind* whose name begins with *prefix*, by name."""
        rows = self._db.execute(
            "SELECT name, body FROM documents WHERE kind=? AND substr(name,1,?)=? ORDER BY name",
            (kind, len(prefix), prefix),
        )
        return [(name, json.loads(body)) for name, body in rows]

    def kinds(self) -> dict[str, int]:
        """How many documents there are of each kind."""
        return dict(self._db.execute("SELECT kind, count(*) FROM documents GROUP BY kind ORDER BY kind"))

    def next(self, counter: str) -> int:
        """The next number of *counter*, from 1; never given twice, also across restarts."""
        row = self._db.execute(
            "INSERT INTO counters VALUES (?,1) ON CONFLICT (name) DO UPDATE SET value=value+1 RETURNING value",
            (counter,),
        ).fetchone()
        return int(row[0])

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Several writes as one: all of them are kept, or none. May be nested."""
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
        """Forget everything."""
        self.version += 1
        with self.transaction():
            self._db.execute("DELETE FROM documents")
            self._db.execute("DELETE FROM counters")

    def scrub(self) -> None:
        """Write the file anew, so that neither it nor its log holds any more of what was forgotten."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class Memo(Generic[Key, Value]):
    """Values that follow from what a store holds, until anything in it changes: a request asks the same every time.

    Values must not be changed by who gets them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = store.version
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """What was `put` since the last change; None where nothing was."""
        if self._version != self._store.version:
            self._values.clear()
            self._version = self._store.version
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remember what follows from the store as it is."""
        if self._version != self._store.version or len(self._values) >= _REMEMBERED:
            self._values.clear()
            self._version = self._store.version
        self._values[key] = value
