"""Tests of a stack's lock: of a running update, of an update whose program was killed, and without an owner."""

import json
from dataclasses import dataclass, field

import pytest

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.pulumi_engine import run_to_completion
from mcpfleet_local_cloud.commands.stack_lock import StackLock

INLINE = ["pulumi", "up", "--exec-kind", "auto.inline", "--stack", "local"]
SHELL = ["-bash"]
DEV = ["python", "-m", "devtools", "up"]
LOCAL = ["python", "mcpfleet", "local", "up"]


@dataclass
class FakeProcesses:
    """Processes by number: their arguments and their parent. Time passes only by sleeping."""

    table: dict[int, tuple[list[str], int]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    immortal: bool = False
    leaves_at: float | None = None
    now: float = 0.0

    def is_running(self, pid, words):
        return pid in self.table and all(word in self.table[pid][0] for word in words)

    def program_name(self, pid):
        return self.table[pid][0][0] if pid in self.table else ""

    def parent_pid(self, pid):
        return self.table[pid][1] if pid in self.table else 0

    def terminate(self, pid, grace):
        self.ended.append(pid)
        if not self.immortal:
            del self.table[pid]

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.leaves_at is not None and self.now >= self.leaves_at:
            self.table.pop(7, None)


@pytest.fixture
def processes():
    return FakeProcesses()


@pytest.fixture
def lock(tmp_path, processes):
    return StackLock(tmp_path, "mcpfleet", "local", processes, lambda: "here")


@pytest.fixture
def held(tmp_path):
    def held(content, stack="local"):
        file = tmp_path / "locks" / "organization" / "mcpfleet" / stack / "0f.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return held


def by(pid, host="here"):
    return {"pid": pid, "username": "ada", "hostname": host, "timestamp": "2026-11-23T00:00:00Z"}


def test_an_unlocked_stack_is_free(lock):
    lock.clear()


@pytest.mark.parametrize(
    "content",
    [by(7), by(8), by(9, "elsewhere"), "", "[]", '{"pid": "x", "hostname": "here"}', '{"hostname": "here"}'],
    ids=["gone", "another program has the number", "another host", "empty", "a list", "no number", "no pid"],
)
def test_a_lock_of_a_dead_process_is_removed(lock, held, processes, content):
    processes.table |= {8: (["vim", "pulumi"], 1), 9: (["pulumi", "up"], 1)}
    file = held(content)
    lock.clear()
    assert not file.exists()
    assert processes.ended == []


def test_the_locks_of_other_stacks_are_left_alone(lock, held):
    other = held(by(7), stack="dev")
    lock.clear()
    assert other.exists()


@pytest.mark.parametrize(
    ("arguments", "parent"),
    [(INLINE, DEV), (INLINE, LOCAL), (["pulumi", "up", "-s", "local"], SHELL), (["pulumi", "up"], ["systemd"])],
    ids=["of another ./dev", "of mcpfleet local", "of a shell", "in the background"],
)
def test_a_running_update_is_waited_for_and_then_reported(lock, held, processes, arguments, parent):
    processes.table |= {7: (arguments, 3), 3: (parent, 1)}
    file = held(by(7))
    with pytest.raises(SetupError, match=r"locked: another update is running \(process 7\)"):
        lock.clear()
    assert 10 <= processes.now < 11
    assert processes.ended == []
    assert file.exists()


def test_an_update_that_ends_in_time_is_no_error(lock, held, processes):
    processes.table |= {7: (INLINE, 3), 3: (DEV, 1)}
    processes.leaves_at = 4
    file = held(by(7))
    lock.clear()
    assert not file.exists()


@pytest.mark.parametrize("adopted_by", [1, 3], ids=["init", "a session manager"])
def test_an_engine_whose_program_was_killed_is_stopped(lock, held, processes, adopted_by):
    processes.table |= {7: (INLINE, adopted_by), 1: (["init"], 0), 3: (["systemd", "--user"], 1)}
    file = held(by(7))
    lock.clear()
    assert processes.ended == [7]
    assert not file.exists()


def test_an_engine_that_cannot_be_stopped_is_reported_after_a_time_limit(lock, held, processes):
    processes.table |= {7: (INLINE, 1), 1: (["init"], 0)}
    processes.immortal = True
    held(by(7))
    with pytest.raises(SetupError, match="process 7"):
        lock.clear()
    assert 10 <= processes.now < 11


def test_an_engine_whose_program_is_process_1_of_a_container_is_left_alone(lock, held, processes):
    processes.table |= {7: (INLINE, 1), 1: (DEV, 0)}
    held(by(7))
    with pytest.raises(SetupError, match="process 7"):
        lock.clear()
    assert processes.ended == []


def test_a_run_returns_the_result_or_raises_the_exception(step):
    assert run_to_completion(lambda: 42, step) == 42
    with pytest.raises(KeyError, match="lost"):
        run_to_completion(lambda: {}["lost"], step)


def test_after_ctrl_c_the_engine_finishes_its_running_operations(step, monkeypatch):
    import threading

    join, waits, did = threading.Thread.join, [], []

    def interrupted(thread, timeout=None):
        waits.append(timeout)
        if len(waits) == 1:
            raise KeyboardInterrupt
        assert step.progress_text.startswith("stopping")
        join(thread, timeout)

    monkeypatch.setattr("threading.Thread.join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_to_completion(lambda: did.append("finished"), step, cancel_seconds=5)
    assert waits == [None, 5]
    assert did == ["finished"]
