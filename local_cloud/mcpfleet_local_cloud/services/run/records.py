"""The stored records of services and revisions, and functions to create them.

A service's record has the desired state (`spec`, complete with defaults), creator and times, the observed state, and
the work in progress: `pending` (`{generation, revision, operation}`) or `deleting` (`{operation, time}`). Both are
written before the work starts, so that it can be finished after a crash.

A revision's `state`: starting → ready → retiring → retired, or starting → failed.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Final

from mcpfleet_local_cloud.rest.json_api import format_timestamp
from mcpfleet_local_cloud.services.run.locations import short_name
from mcpfleet_local_cloud.services.run.unsupported import prune
from mcpfleet_local_cloud.state.store import Document, Store

SERVICE: Final = "run.service"
REVISION: Final = "run.revision"
LIVE_STATES: Final = ("starting", "ready")
Clock = Callable[[], str]


def current_timestamp() -> str:
    """The current time in RFC 3339 with microseconds, as in Google's documents."""
    return format_timestamp(time.time())


def new_service(name: str, number: int, uid: str, spec: Document, caller: str, now: str) -> Document:
    """Create the record of a new service."""
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
    """Create the record of a new revision of *service*, and increment the revision counter of *service*."""
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


def is_same_spec(left: Document, right: Document) -> bool:
    """Whether two specs are equal, ignoring default values and the order of `env`, which is a set for the provider."""
    return _canonical(left) == _canonical(right)


def revisions_of(store: Store, service: str) -> list[Document]:
    """List the stored revisions of the service with that full name, sorted by name."""
    return [record for _, record in store.list(REVISION, f"{service}/revisions/")]


def _canonical(spec: Document) -> Document:
    pruned: Document = prune(spec)
    template: Document = pruned.get("template", pruned)
    for container in template.get("containers", []):
        if "env" in container:
            container["env"] = sorted(container["env"], key=lambda variable: variable.get("name", ""))
    return pruned


def _generated_name(service: Document) -> str:
    """Return `<service>-<5 digits>-<3 letters>`; the letters depend on uid and generation, so a retry gets the same."""
    digest = hashlib.sha256(f"{service['uid']}/{service['generation']}".encode()).digest()
    letters = "".join(chr(ord("a") + byte % 26) for byte in digest[:3])
    return f"{short_name(service['name'])}-{service['revisions']:05d}-{letters}"
