"""Other processes: is it still ours, who started it, how is it ended; on Linux, and where there is only `ps`."""

import signal
from dataclasses import dataclass, field

import pytest

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.processes import Processes

STATE = "/home/ada/my fleet/.mcpfleet/cloud"
CLOUD = ["/venv/bin/python", "-m", "mcpfleet_local_cloud", "serve", "--state", STATE]


@dataclass
class Machine:
    """Processes that end when their signal comes, or do not. Time passes only by sleeping."""

    table: dict[int, dict] = field(default_factory=dict)
    sent: list[tuple[int, int]] = field(default_factory=list)
    deaf_to: set[int] = field(default_factory=set)
    forbidden: bool = False
    now: float = 0.0

    def add(self, pid, arguments, *, parent=1, state="S"):
        self.table[pid] = {"arguments": arguments, "parent": parent, "state": state}

    def send(self, pid, number):
        if self.forbidden:
            raise PermissionError
        if pid not in self.table:
            raise ProcessLookupError
        self.sent.append((pid, number))
        if number not in self.deaf_to:
            self.remove(pid)

    def remove(self, pid):
        del self.table[pid]

    def sleep(self, seconds):
        self.now += seconds


class Linux(Machine):
    def __init__(self, proc):
        super().__init__()
        self.proc = proc
        (proc / "self").mkdir(parents=True)
        self.processes = Processes(
            proc=proc, ps=lambda *_: pytest.fail("asked ps"), send=self.send, clock=lambda: self.now, sleep=self.sleep
        )

    def add(self, pid, arguments, *, parent=1, state="S"):
        super().add(pid, arguments, parent=parent, state=state)
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in arguments))
        (folder / "stat").write_text(f"{pid} (a) name (x) {state} {parent} {pid} 0\n")

    def remove(self, pid):
        super().remove(pid)
        for file in (self.proc / str(pid)).iterdir():
            file.unlink()
        (self.proc / str(pid)).rmdir()


class Mac(Machine):
    def __init__(self, proc):
        super().__init__()
        self.processes = Processes(proc=proc, ps=self.ps, send=self.send, clock=lambda: self.now, sleep=self.sleep)

    def ps(self, columns, pid):
        if pid not in self.table:
            return ""
        one = self.table[pid]
        return {
            "args=": " ".join(one["arguments"]),
            "comm=": one["arguments"][0],
            "stat=,ppid=": f"{one['state']}s   {one['parent']}",
        }[columns]


@pytest.fixture(params=[Linux, Mac])
def machine(request, tmp_path):
    return request.param(tmp_path / "proc")


def test_a_process_is_identified_by_its_command_line(machine):
    machine.add(7, CLOUD)
    assert machine.processes.is_running(7, ["mcpfleet_local_cloud", STATE])
    assert not machine.processes.is_running(7, ["mcpfleet_local_cloud", "/home/bob/fleet/.mcpfleet/cloud"]), (
        "another checkout's"
    )
    assert not machine.processes.is_running(8, ["mcpfleet_local_cloud"]), "there is none"


def test_on_linux_only_whole_arguments_match(tmp_path):
    machine = Linux(tmp_path)
    machine.add(7, ["python", "-m", "mcpfleet_local_cloud.plugins"])
    assert not machine.processes.is_running(7, ["mcpfleet_local_cloud"])


def test_the_program_and_the_parent_of_a_process_are_read(machine):
    machine.add(7, ["/cache/v3/pulumi", "up"], parent=3)
    assert (machine.processes.program_name(7), machine.processes.parent_pid(7)) == ("pulumi", 3)
    assert (machine.processes.program_name(8), machine.processes.parent_pid(8)) == ("", 0)


def test_a_zombie_process_is_not_alive(machine):
    machine.add(7, CLOUD, state="Z")
    assert not machine.processes.is_alive(7)
    assert not machine.processes.is_running(7, ["mcpfleet_local_cloud"])
    assert machine.processes.program_name(7) == ""


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_that_means_a_process_group_is_refused(machine, pid):
    machine.add(pid, CLOUD)
    assert not machine.processes.is_alive(pid)


def test_a_process_that_ends_at_sigterm_is_not_killed(machine):
    machine.add(7, CLOUD)
    machine.processes.terminate(7)
    assert machine.sent == [(7, signal.SIGTERM)]
    assert machine.now < 0.1


def test_a_process_that_does_not_end_in_time_is_killed(machine):
    machine.add(7, CLOUD)
    machine.deaf_to = {signal.SIGTERM}
    machine.processes.terminate(7, grace=10)
    assert machine.sent == [(7, signal.SIGTERM), (7, signal.SIGKILL)]
    assert 10 <= machine.now < 10.1


def test_waiting_for_a_process_that_cannot_be_killed_is_limited(machine):
    machine.add(7, CLOUD)
    machine.deaf_to = {signal.SIGTERM, signal.SIGKILL}
    machine.processes.terminate(7, grace=1)
    assert 6 <= machine.now < 6.1


def test_terminating_a_finished_process_is_no_error(machine):
    machine.processes.terminate(7)


def test_a_process_of_another_user_is_an_error_with_the_next_step(machine):
    machine.add(7, CLOUD)
    machine.forbidden = True
    with pytest.raises(SetupError, match="another user") as failure:
        machine.processes.terminate(7)
    assert "sudo kill 7" in failure.value.next_step


def test_without_proc_and_ps_no_process_is_recognized(tmp_path):
    processes = Processes(proc=tmp_path / "proc", ps=lambda *_: "")
    assert not processes.is_running(7, ["mcpfleet_local_cloud"])
    assert processes.parent_pid(7) == 0
