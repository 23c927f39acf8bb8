"""The local cloud and the plugins: when they are started, found, replaced and ended."""

import json
from dataclasses import dataclass, field, replace

import pytest

from mcpfleet_local_cloud.commands.background import CloudFolder, Supervisor, describe_program, read_port
from mcpfleet_local_cloud.commands.phases import SetupError

ENVIRON = {
    "GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT": "http://127.0.0.1:8470/run/v2/",
    "DOCKER_HOST": "unix:///d",
    "TERM": "x",
}


@dataclass
class FakeProcess:
    pid: int
    log: object
    code: int | None = None

    def has_ended(self):
        return self.code is not None


@dataclass
class Machine:
    """A fake machine: started programs write their ready file at once, or print `broken` and exit."""

    folder: CloudFolder
    table: dict[int, list[str]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    environs: list[dict] = field(default_factory=list)
    broken: str | None = None
    silent: bool = False
    listening: set[int] = field(default_factory=set)
    deaf: set[int] = field(default_factory=set)
    now: float = 0.0

    def start(self, arguments, folder, environ, log):
        assert folder == self.folder.root
        pid = 100 + len(self.environs)
        self.environs.append(dict(environ))
        if self.broken is not None:
            log.write_text(log.read_text() + self.broken if log.exists() else self.broken)
            return FakeProcess(pid, log, code=1)
        self.table[pid] = arguments
        if not self.silent:
            self.say(arguments, pid)
        return FakeProcess(pid, log)

    def say(self, arguments, pid):
        plugins = "mcpfleet_local_cloud.plugins" in arguments
        facts = (
            describe_program(self.folder, "plugins", int(arguments[-1])).ready_file
            if plugins
            else describe_program(self.folder, "cloud").ready_file
        )
        facts.parent.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps({"pid": pid, "url": self.folder.url, "port": self.folder.port}))

    def is_running(self, pid, words):
        return pid in self.table and all(word in self.table[pid] for word in words)

    def terminate(self, pid):
        self.ended.append(pid)
        self.table.pop(pid, None)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text("one = 1\n")
    return CloudFolder(root=tmp_path, state=tmp_path / ".mcpfleet")


@pytest.fixture
def machine(folder):
    return Machine(folder)


@pytest.fixture
def supervisor(folder, machine):
    return Supervisor(folder, machine, machine.start, lambda port: port in machine.listening, folder.root / "code")


@pytest.fixture(params=["cloud", "plugins"])
def wanted(request, folder, machine):
    """The program as it is, but for the question whether it answers."""
    return replace(describe_program(folder, request.param), is_answering=lambda facts: facts["pid"] not in machine.deaf)


def test_a_running_program_is_found_and_not_started_again(supervisor, machine, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    again = supervisor.ensure(wanted, ENVIRON)
    assert (first.started, again.started, again.pid) == (True, False, first.pid)
    assert machine.environs == [ENVIRON]


def test_a_killed_program_is_started_again(supervisor, machine, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    del machine.table[first.pid]
    again = supervisor.ensure(wanted, ENVIRON)
    assert again.started
    assert again.pid != first.pid
    assert machine.ended == [], "its number belongs to nobody, or to somebody else"


def test_an_unresponsive_program_is_stopped_and_started_again(supervisor, machine, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    machine.deaf = {first.pid}
    assert supervisor.ensure(wanted, ENVIRON).started
    assert machine.ended == [first.pid]


def test_a_program_whose_code_was_edited_is_replaced(supervisor, machine, folder, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    (folder.root / "code" / "app.py").write_text("one = 2  # edited\n")
    assert supervisor.ensure(wanted, ENVIRON).started
    assert machine.ended == [first.pid]


@pytest.mark.parametrize(
    ("changed", "restarted"),
    [
        ({"GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT": "x"}, True),
        ({"DOCKER_HOST": "unix:///other"}, True),
        ({"TERM": "y"}, False),
    ],
)
def test_plugins_are_replaced_when_their_configuration_changes(supervisor, folder, machine, changed, restarted):
    wanted = replace(describe_program(folder, "plugins"), is_answering=lambda _facts: True)
    supervisor.ensure(wanted, ENVIRON)
    assert supervisor.ensure(wanted, {**ENVIRON, **changed}).started is restarted


@pytest.mark.parametrize(("changed", "restarted"), [({"DOCKER_HOST": "unix:///other"}, True), ({"TERM": "y"}, False)])
def test_the_cloud_uses_the_docker_engine_that_setup_found(supervisor, folder, machine, changed, restarted):
    wanted = replace(describe_program(folder, "cloud"), is_answering=lambda _facts: True)
    supervisor.ensure(wanted, ENVIRON)
    assert supervisor.ensure(wanted, {**ENVIRON, **changed}).started is restarted


def test_each_process_has_its_own_plugins_which_end_with_it(supervisor, folder, machine):
    one, other = (
        replace(describe_program(folder, "plugins", pid), is_answering=lambda _facts: True) for pid in (41, 42)
    )
    assert supervisor.ensure(one, ENVIRON).started
    assert supervisor.ensure(other, ENVIRON).started
    assert [words[-2:] for words in machine.table.values()] == [["--until", "41"], ["--until", "42"]]
    supervisor.stop(one)
    assert supervisor.find(one) is None
    assert supervisor.find(other) is not None
    assert [file.name for file in folder.state.glob("plugins-41*")] == [], "nothing of it is left"


def test_a_program_on_another_port_is_another_program(supervisor, folder, machine):
    cloud = replace(describe_program(folder, "cloud"), is_answering=lambda _facts: True)
    supervisor.ensure(cloud, ENVIRON)
    moved = replace(describe_program(replace(folder, port=9000), "cloud"), is_answering=lambda _facts: True)
    assert supervisor.ensure(moved, ENVIRON).started


def test_a_program_of_another_checkout_with_the_same_pid_is_left_alone(supervisor, machine, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    machine.table[first.pid] = [word.replace(".mcpfleet", "other/.mcpfleet") for word in machine.table[first.pid]]
    assert supervisor.find(wanted) is None
    supervisor.stop(wanted)
    assert machine.ended == []


def test_stopping_removes_a_programs_ready_file_and_can_be_repeated(supervisor, machine, wanted):
    first = supervisor.ensure(wanted, ENVIRON)
    supervisor.stop(wanted)
    assert machine.ended == [first.pid]
    assert not wanted.ready_file.exists()
    supervisor.stop(wanted)
    assert machine.ended == [first.pid]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', '{"pid": null}', "{cut"])
def test_an_invalid_ready_file_counts_as_no_program(supervisor, wanted, content):
    wanted.ready_file.parent.mkdir(parents=True, exist_ok=True)
    wanted.ready_file.write_text(content)
    assert supervisor.find(wanted) is None
    assert supervisor.ensure(wanted, ENVIRON).started


def test_an_unreadable_ready_file_is_an_error_with_the_next_step(supervisor, wanted):
    wanted.ready_file.mkdir(parents=True)
    with pytest.raises(SetupError) as failure:
        supervisor.find(wanted)
    assert str(wanted.ready_file) in failure.value.message
    assert "chown" in failure.value.next_step


def test_a_failed_start_is_reported_with_the_programs_output(supervisor, machine, wanted):
    machine.broken = "INFO starting\nerror: no room\nnext: make room\nINFO bye\n"
    with pytest.raises(SetupError) as failure:
        supervisor.ensure(wanted, ENVIRON)
    assert (failure.value.message, failure.value.next_step) == ("no room", "make room")


def test_only_the_output_of_the_last_start_is_reported(supervisor, machine, folder, wanted):
    machine.broken = "error: an old one\n"
    with pytest.raises(SetupError):
        supervisor.ensure(wanted, ENVIRON)
    machine.broken = "Traceback (most recent call last):\nImportError: no module x\n"
    with pytest.raises(SetupError) as failure:
        supervisor.ensure(wanted, ENVIRON)
    assert failure.value.message == f"The {wanted.title} ended while it started: ImportError: no module x"
    assert str(folder.log(wanted.kind)) in failure.value.next_step


def test_a_program_that_never_answers_is_stopped_with_an_error(supervisor, machine, wanted):
    machine.silent = True
    with pytest.raises(SetupError, match=r"did not answer within 60 s"):
        supervisor.ensure(wanted, ENVIRON)
    assert 60 <= machine.now < 61
    assert machine.ended == [100]


@pytest.mark.parametrize(
    ("answers", "whose", "step"),
    [(False, "another program", "ss -ltnp"), (True, "another checkout", "./dev down there")],
)
def test_a_port_in_use_is_an_error_with_its_owner(supervisor, machine, folder, monkeypatch, answers, whose, step):
    monkeypatch.setattr("mcpfleet_local_cloud.commands.background.is_cloud_answering", lambda _url: answers)
    machine.listening = {8470}
    with pytest.raises(SetupError, match=whose) as failure:
        supervisor.ensure(describe_program(folder, "cloud"), ENVIRON)
    assert step in failure.value.next_step
    assert "MCPFLEET_PORT=8471 ./dev up" in failure.value.next_step
    assert machine.environs == []


def test_the_cloud_is_checked_on_its_own_port_with_its_token(folder, monkeypatch):
    monkeypatch.setattr("mcpfleet_local_cloud.commands.background.is_cloud_answering", lambda url: url == folder.url)
    answers = describe_program(folder, "cloud").is_answering
    assert not answers({"url": folder.url}), "nobody could ask it anything"
    folder.cloud_state.mkdir(parents=True)
    (folder.cloud_state / "admin-token").write_text("t")
    assert answers({"url": folder.url})
    assert not answers({"url": "http://127.0.0.1:9000"})
    assert not answers({})


@pytest.mark.parametrize(
    ("providers", "expected"),
    [("gcp:1,docker-build:2", True), ("gcp:1,docker-build:3", False), ("gcp:x", False), ("", False)],
)
def test_the_plugins_are_ready_when_all_their_ports_listen(folder, monkeypatch, providers, expected):
    monkeypatch.setattr("mcpfleet_local_cloud.commands.background._listens", lambda port: port in {1, 2})
    assert describe_program(folder, "plugins").is_answering({"PULUMI_DEBUG_PROVIDERS": providers}) is expected


@pytest.mark.parametrize(
    ("content", "port"), [('{"port": 9000}', 9000), ('{"port": "x"}', None), ("{cut", None), (None, None)]
)
def test_the_port_of_a_running_or_stopped_cloud_is_read(folder, content, port):
    if content is not None:
        folder.cloud_state.mkdir(parents=True)
        (folder.cloud_state / "cloud.json").write_text(content)
    assert read_port(folder.state) == port
