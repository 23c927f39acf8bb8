"""What the store remembers of services and revisions, and how new records come to be.

A service's record: the caller's wish (`spec`, complete with defaults), who and when, what was observed, and the work
that is under way: `pending` (`{generation, revision, operation}`) or `deleting` (`{operation, time}`). Both are written
before anything is done, so that whoever reads the record after a crash knows what to finish.

A revision's `state`: starting → ready → retiring → retired, or starting → failed.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Final

from mcpfleet_local_cloud.rest.json_api import format_timestamp
from mcpfleet_local_cloud.services.run.places import short
from mcpfleet_local_cloud.services.run.unsupported import prune
from mcpfleet_local_cloud.state.store import Document, Store

SERVICE: Final = "run.service"
REVISION: Final = "run.revision"
LIVE: Final = ("starting", "ready")
Clock = Callable[[], str]


def timestamp() -> str:
    """Now, in RFC 3339 with microseconds, as Google's documents have it."""
    return format_timestamp(time.time())


def new_service(name: str, number: int, uid: str, spec: Document, caller: str, now: str) -> Document:
    """The record of a service that was just asked for."""
    return {
        "name": name,
        "projectNumber": number,
        "uid": uid,
        "generation": 1,
        "observedGeneration": 0,
        "revisions": 0,
        "createTime": now,
        "updateTime": now,
        "creator": caller,
        "lastModifier": caller,
        "spec": spec,
    }


def new_revision(service: Document, uid: str, caller: str, now: str) -> Document:
    """The record of the revision that *service* needs now; it counts itself in *service*."""
    template: Document = service["spec"]["template"]
    service["revisions"] += 1
    name = template.get("revision") or _generated_name(service)
    return {
        "name": f"{service['name']}/revisions/{name}",
        "uid": uid,
        "createTime": now,
        "updateTime": now,
        "creator": caller,
        "launchStage": service["spec"]["launchStage"],
        "template": template,
        "state": "starting",
    }


def same(left: Document, right: Document) -> bool:
    """Whether two wishes mean the same: default values and the order of `env`, a set for the provider, aside."""
    return _canonical(left) == _canonical(right)


def revisions_of(store: Store, service: str) -> list[Document]:
    """Every remembered revision of the service with that full name, by name."""
    return [record for _, record in store.list(REVISION, f"{service}/revisions/")]


def _canonical(wish: Document) -> Document:
    pruned: Document = prune(wish)
    template: Document = pruned.get("template", pruned)
    for container in template.get("containers", []):
        if "env" in container:
            container["env"] = sorted(container["env"], key=lambda one: one.get("name", ""))
    return pruned


def _generated_name(service: Document) -> str:
    """`<service>-<5 digits>-<3 letters>`; the letters follow from uid and generation, so a retry finds them again."""
    digest = hashlib.sha256(f"{service['uid']}/{service['generation']}".encode()).digest()
    letters = "".join(chr(ord("a") + byte % 26) for byte in digest[:3])
    return f"{short(service['name'])}-{service['revisions']:05d}-{letters}"
