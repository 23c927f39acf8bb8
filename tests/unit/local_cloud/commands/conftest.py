"""A machine and a Docker Engine that tests decide: nothing here starts a process or opens a socket."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases
from mcpfleet_local_cloud.commands.setup.docker_api import EngineError, ImageFacts
from mcpfleet_local_cloud.commands.setup.host import CompletedProgram
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts

Answer = CompletedProgram | Callable[[list[str]], CompletedProgram]


@dataclass
class FakeProcess:
    pid: int = 4242
    code: int | None = None

    def exit_code(self) -> int | None:
        return self.code


@dataclass
class FakeHost:
    """Programs are answers by the first words of a command; whatever is not answered is not installed."""

    environ: Mapping[str, str] = field(default_factory=dict)
    programs: dict[str, Path] = field(default_factory=dict)
    answers: dict[tuple[str, ...], Answer] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    free: dict[Path, int | None] = field(default_factory=dict)
    root: bool = True
    system: tuple[str, str] = ("Linux", "x86_64")
    process: FakeProcess = field(default_factory=FakeProcess)
    archives: Callable[[str, Path], None] | None = None
    calls: list[list[str]] = field(default_factory=list)
    started: list[list[str]] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)
    now: float = 0.0

    def run(self, argv, *, cwd=None, env=None, timeout=None, on_line=None) -> CompletedProgram:
        words = [str(word) for word in argv]
        self.calls.append(words)
        self.environments.append(env or {})
        for length in range(len(words), 0, -1):
            answer = self.answers.get(tuple(words[:length]))
            if answer is not None:
                done = answer if isinstance(answer, CompletedProgram) else answer(words)
                for line in done.output.splitlines() if on_line else ():
                    on_line(line)
                return done
        return CompletedProgram(127, f"{words[0]}: not found")

    def which(self, name: str) -> Path | None:
        return self.programs.get(name)

    def start(self, argv: Sequence[str], log: Path) -> FakeProcess:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started.append(list(argv))
        return self.process

    def download(self, url: str, to: Path, *, timeout: float) -> None:
        self.downloads.append(url)
        if self.archives is None:
            raise OSError("Could not resolve host")
        self.archives(url, to)

    def is_root(self) -> bool:
        return self.root

    def free_bytes(self, path: Path) -> int | None:
        return self.free.get(path, 50 * 1000**3)

    def platform(self) -> tuple[str, str]:
        return self.system

    def read(self, path: Path) -> str | None:
        return self.files.get(path)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def commands(self) -> list[str]:
        """The commands that ran, as one would type them."""
        return [" ".join(words) for words in self.calls]


@dataclass
class FakeEngine:
    """Keeps images by name; `refuse` names the operations that fail, with Docker's text."""

    address: EngineAddress = field(default_factory=lambda: EngineAddress(host="unix:///var/run/docker.sock"))
    said: EngineFacts = field(default_factory=lambda: EngineFacts(version="28.0.1"))
    client: object = None
    images: dict[str, ImageFacts] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    did: list[str] = field(default_factory=list)
    contexts: list[dict[str, str]] = field(default_factory=list)

    def facts(self) -> EngineFacts:
        return self.said

    def image(self, name: str) -> ImageFacts | None:
        return self.images.get(name)

    def pull(self, reference: str) -> None:
        self._do("pull", reference)
        self.images[reference] = ImageFacts(digests=(reference,))

    def import_tar(self, tar: Path, name: str, changes: Sequence[str]) -> None:
        self._do("import", name)
        assert tar.exists()
        labels = dict(change.removeprefix("LABEL ").split("=", 1) for change in changes if change.startswith("LABEL "))
        self.images[name] = ImageFacts(labels=labels)

    def build(self, folder: Path, name: str, *, args: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self.contexts.append({path.name: path.read_text() for path in folder.iterdir() if path.is_file()})
        self._do("build", name)
        self.images[name] = ImageFacts(labels=dict(labels))

    def _do(self, operation: str, name: str) -> None:
        self.did.append(f"{operation} {name.partition('@')[0]}")
        if operation in self.refuse:
            raise EngineError(self.refuse[operation])


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def process() -> type[FakeProcess]:
    return FakeProcess


@pytest.fixture
def paths(tmp_path) -> Paths:
    return Paths(root=tmp_path / "checkout", cache=tmp_path / "cache")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plain(clock) -> Phases:
    """Phases that print to `phases.console.file`, without a terminal."""
    return Phases(Console(file=io.StringIO(), highlight=False, width=80), clock)


@pytest.fixture
def step(plain):
    with plain.phase("test") as step:
        yield step
