"""Tests of the cache of results that are computed from the store."""

import contextlib

import pytest

from mcpfleet_local_cloud.state.store import Store, StoreCache


def rolled_back(store):
    with contextlib.suppress(LookupError), store.transaction():
        store.put("kind", "name", {"a": 3})
        memo.put("key", "of what is not kept")
        raise LookupError


memo: StoreCache[str, str]


@pytest.fixture
def store():
    global memo  # noqa: PLW0603 - a change may put something into it
    new_store = Store()
    new_store.put("kind", "name", {"a": 1})
    memo = StoreCache(new_store)
    memo.put("key", "value")
    yield new_store
    new_store.close()


def test_a_result_is_cached_while_nothing_changes(store):
    store.get("kind", "name")
    store.list("kind")
    store.next_number("counter")
    assert memo.get("key") == "value"
    assert memo.get("another") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.put("kind", "name", {"a": 2}),
        lambda store: store.insert("kind", "another", {}),
        lambda store: store.delete("kind", "name"),
        lambda store: store.reset(),
        rolled_back,
    ],
    ids=["put", "insert", "delete", "reset", "a transaction that was taken back"],
)
def test_a_result_is_dropped_after_a_change(store, change):
    change(store)
    assert memo.get("key") is None


def test_the_cache_has_a_size_limit(store):
    for number in range(5000):
        memo.put(str(number), "value")
    assert sum(memo.get(str(number)) is not None for number in range(5000)) <= 1024
