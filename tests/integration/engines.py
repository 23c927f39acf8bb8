"""Other people's machines, simulated on this one: users, and Docker engines of other shapes.

Each is made as root and taken away by what was noted when it was made; this machine's own engine is never touched. By
hand:

    .venv/bin/python -m tests.integration.engines SHAPE [COMMAND ...]

runs the command (by default a shell) as whoever has that engine. SHAPE is `user` (an ordinary user in the group
docker), `namespace` (the same, with an engine in a network of its own, as Docker Desktop's), `rootless`, or `podman`.
"""

import contextlib
import grp
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOTLESS = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
_TUN = Path("/dev/net/tun")
_PATIENCE = 60.0


@dataclass(frozen=True)
class User:
    """A user of this machine who is not root.

    Attributes:
        name: Its name.
        home: Its home, which nobody else has a file in.
        groups: The numbers of its further groups.
        view: The process in whose mount namespace it lives.
        environ: What its shell has set besides HOME and its name.
    """

    name: str
    home: Path
    groups: tuple[int, ...] = ()
    view: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    @property
    def runtime(self) -> Path:
        """Its XDG_RUNTIME_DIR."""
        return self.home / "run"

    def environment(self) -> dict[str, str]:
        """The user's environment: its own variables, and the harmless ones of this process."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "XDG_", "SUDO_"))}
        own = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "XDG_RUNTIME_DIR": str(self.runtime)}
        # A cache that it could not write would be a warning of hypothesis, and so a failure.
        places = {"TMPDIR": str(self.home / "tmp"), "HYPOTHESIS_STORAGE_DIRECTORY": str(self.home / ".hypothesis")}
        return {**ours, **own, **places, **self.environ}

    def command(self, argv: Sequence[str], folder: Path | None = None) -> list[str]:
        """*argv* as this user in *folder* (by default its home), from a process of root."""
        numbers = ",".join(str(item) for item in (self.uid, *self.groups))
        became = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={numbers}", "--"]
        seen = ["nsenter", f"--mount=/proc/{self.view}/ns/mnt", "--"] if self.view else []
        return [*seen, *became, "sh", "-c", 'cd "$0" && exec "$@"', str(folder or self.home), *argv]


_SHOW = """
set -e
python=$1; closed=$2; cache=$3; home=$4; uid=$5; checkout=$6
mkdir -p "$home/.cache/mcpfleet" "$home/.overlay/new" "$home/.overlay/work" "$home/.shown" "$home/.state"
mkdir -p "$checkout/.mcpfleet"
chown "$uid:$uid" "$home/.state"
mount --bind "$home/.state" "$checkout/.mcpfleet"
if [ -d "$cache" ]; then
  layers="lowerdir=$cache,upperdir=$home/.overlay/new,workdir=$home/.overlay/work"
  mount -t overlay -o "$layers" overlay "$home/.cache/mcpfleet"
fi
find "$home/.cache" '(' -type d -o -path '*/locks/*' ')' -exec chown "$uid:$uid" {} +
if [ -n "$closed" ]; then
  for one in "$python" "$cache"; do
    case "$one" in "$closed"/*)
      place="$home/.shown/${one#"$closed"/}"; mkdir -p "$place"
      if [ "$one" = "$cache" ]; then one="$home/.cache/mcpfleet"; fi
      mount --bind "$one" "$place";;
    esac
  done
  mount --rbind "$home/.shown" "$closed"
fi
echo ready
exec sleep infinity
"""
"""What a user sees otherwise than root, in a mount namespace of its own, so that nothing changes for anybody else: the
Python that runs the tests, which may be in a home that only root enters; of root's cache a copy of its own; and in the
checkout a state folder that it can write."""


@contextmanager
def _shown(name: str, home: Path, uid: int) -> Iterator[int]:
    """The process whose mount namespace the user sees."""
    python = Path(sys.base_prefix).resolve()
    closed = next((item for item in reversed(python.parents) if not item.stat().st_mode & 0o001), None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcpfleet"
    words = [str(python), str(closed or ""), str(cache), str(home), str(uid), str(ROOT)]
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", _SHOW, f"view of {name}", *words]
    holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "ready\n":
                raise RuntimeError(f"{name} could not be shown Python and the cache")
            yield holder.pid
        finally:
            holder.kill()


@contextmanager
def ordinary_user(*groups: str) -> Iterator[User]:
    """A user with a home of its own, in these groups besides its own."""
    name = f"mcpfleet-{secrets.token_hex(3)}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder.chmod(0o755)
    home = folder / "home"
    numbers = tuple(grp.getgrnam(group).gr_gid for group in groups)
    with contextlib.ExitStack() as made:
        made.callback(shutil.rmtree, folder)
        _run("useradd", "--create-home", "--home-dir", str(home), "--user-group", "--shell", "/bin/bash", name)
        made.callback(_run, "userdel", name)
        uid = pwd.getpwnam(name).pw_uid
        user = User(name, home, numbers, made.enter_context(_shown(name, home, uid)))
        made.callback(_end_all_of, uid)
        for place in (user.runtime, home / "tmp"):
            place.mkdir(mode=0o700)
            os.chown(place, uid, uid)
        yield user


def own(folder: Path, user: User) -> None:
    """Make *folder* and all that is in it the user's."""
    _run("chown", "--recursive", "--no-dereference", f"{user.uid}:{user.uid}", str(folder))


def checkout_of(user: User) -> Path:
    """A copy of this checkout that is the user's."""
    folder = user.home / "mcpfleet"
    leave_out = shutil.ignore_patterns(".git", ".mcpfleet", ".venv", "__pycache__", ".*_cache", "node_modules")
    shutil.copytree(ROOT, folder, ignore=leave_out, symlinks=True)
    own(folder, user)
    return folder


@contextmanager
def namespace_engine(folder: Path) -> Iterator[str]:
    """A Docker engine in a network of its own, as in a virtual machine; gives its DOCKER_HOST.

    Published ports are to be had on this machine's loopback as well (`port_relay`); the addresses of containers are
    not. Its way out is user-space networking, so that this machine's interfaces and rules stay as they are;
    `host-gateway` leads to this machine.
    """
    name = f"mcpfleet-{secrets.token_hex(3)}"
    network = f"/run/netns/{name}"
    relay = folder / "port-relay"
    script = Path(__file__).with_name("port_relay.py")
    relay.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(script)!r}, run_name='__main__')\n")
    relay.chmod(0o755)
    (folder / "daemon.json").write_text("{}")
    host = f"unix://{folder}/docker.sock"
    with contextlib.ExitStack() as made:
        _run("ip", "netns", "add", name)
        made.callback(_run, "ip", "netns", "delete", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        uplink = ["slirp4netns", "--configure", "--mtu=65520", "--netns-type=path", network, "tap0"]
        made.enter_context(_started(uplink, folder / "uplink.log"))
        _until(lambda: "default" in _said("ip", "-n", name, "route"), "the engine's network has a way out")
        dns = folder / "resolv.conf"
        dns.write_text("nameserver 10.0.2.3\n")
        daemon = [
            *("nsenter", f"--net={network}", "unshare", "--mount", "--propagation=private", "sh", "-c"),
            f'mount --bind "{dns}" /etc/resolv.conf; exec "$@"',
            *("sh", "dockerd", f"--config-file={folder}/daemon.json", f"--data-root={folder}/data"),
            *(f"--exec-root={folder}/exec", f"--pidfile={folder}/dockerd.pid", f"--host={host}", "--group=docker"),
            *(f"--userland-proxy-path={relay}", "--host-gateway-ip=10.0.2.2"),
        ]
        environ = {**os.environ, "RELAY_NETWORK": f"/proc/{os.getpid()}/ns/net"}
        made.callback(_unmount_below, folder)
        made.enter_context(_started(daemon, folder / "dockerd.log", environ))
        _until(lambda: _answers(folder / "docker.sock"), f"dockerd answers (its log: {folder}/dockerd.log)")
        yield host


@contextmanager
def rootless_engine(user: User) -> Iterator[str]:
    """The Docker engine of an ordinary user, started by Docker's own script; gives its DOCKER_HOST."""
    environ = {**user.environment(), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    log = user.home.parent / "rootless.log"
    mode = _TUN.stat().st_mode & 0o777
    with contextlib.ExitStack() as made:
        _TUN.chmod(0o666)  # udev's own mode; a machine without udev may have another
        made.callback(_TUN.chmod, mode)
        made.enter_context(_started(user.command(["sh", str(ROOTLESS)]), log, environ))
        _until(lambda: _answers(user.runtime / "docker.sock"), f"the rootless dockerd answers (its log: {log})")
        yield f"unix://{user.runtime}/docker.sock"


@contextmanager
def podman(folder: Path) -> Iterator[str]:
    """Podman's API; gives its DOCKER_HOST."""
    where = f"unix://{folder}/podman.sock"
    places = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--tmpdir", str(folder / "tmp")]
    with contextlib.ExitStack() as made:
        made.callback(_unmount_below, folder)
        made.enter_context(_started(["podman", *places, "system", "service", "--time=0", where], folder / "podman.log"))
        _until(lambda: _answers(folder / "podman.sock"), f"podman answers (its log: {folder}/podman.log)")
        (folder / "podman.sock").chmod(0o666)
        yield where


@contextmanager
def shape(name: str) -> Iterator[User]:
    """Create the engine of this shape; return the user whose shell uses it."""
    with contextlib.ExitStack() as made:
        user = made.enter_context(ordinary_user(*(["docker"] if name in {"user", "namespace"} else [])))
        folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix=f"mcpfleet-{name}-")))
        folder.chmod(0o755)
        if name == "namespace":
            host = made.enter_context(namespace_engine(folder))
        elif name == "podman":
            host = made.enter_context(podman(folder))
        elif name == "rootless":
            made.enter_context(rootless_engine(user))
            host = ""  # found at its usual socket
        else:
            host = ""
        yield replace(user, environ={"DOCKER_HOST": host} if host else {})


@contextmanager
def _started(argv: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """A program in a session of its own, which ends with the block: SIGTERM to it, SIGKILL to what is left of it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end_all_of(uid: int) -> None:
    """End what a user that goes away still runs."""

    def its() -> list[int]:
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and process.stat().st_uid == uid:
                    state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(process.name)] if state not in "ZX" else []
        return found

    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in its():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + 5
        while its() and time.monotonic() < deadline:
            time.sleep(0.05)


def _unmount_below(folder: Path) -> None:
    """Docker leaves mounts of containers that were killed with it."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    for place in reversed([line.split()[1] for line in lines if line.split()[1].startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knock:
        knock.settimeout(5)
        try:
            knock.connect(str(path))
            knock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in knock.recv(1024)
        except OSError:
            return False


def _until(seen: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {_PATIENCE:.0f} s: {what}")
        time.sleep(0.05)


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")


def main() -> int:
    """Run a command in a shape, in a copy of this checkout that is the user's."""
    name, *argv = sys.argv[1:] or ["user"]
    with shape(name) as user:
        checkout = checkout_of(user)
        environ = {**user.environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        print(f"{user.name} in {checkout}, DOCKER_HOST={user.environ.get('DOCKER_HOST', '')}", flush=True)
        return subprocess.run(user.command(argv or ["bash"], checkout), env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
