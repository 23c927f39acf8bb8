"""The fleet's scalar values: a type with a rule for each kind of name, path or URL that a user writes.

A rule raises `ValueError`, and its text tells the user what to write; `pulumi_mcpfleet.fleet.mistakes` adds the config
path. Quantities are in `quantities`, principals and accounts in `identities`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

from pydantic import AfterValidator, Field, ValidationInfo

from pulumi_mcpfleet import environment, naming
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, find_nearest, pattern
from pulumi_mcpfleet.sources.safe_paths import folder_problem, is_file_in, unsafe_file_message

Text = Annotated[str, Field(max_length=32_768), FieldDoc("text", "texts", "each text at most 32,768 characters")]
"""Any text. The limit is Cloud Run's for one environment variable."""


def matching(regex: str, problem: str) -> AfterValidator:
    """Return a rule that the whole text matches *regex*; the message is the quoted text, followed by *problem*."""
    compiled = re.compile(regex)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise ValueError(f"{value[:200]!r} {problem}")
        return value

    return AfterValidator(check)


def _name_pattern() -> str:
    low, high = naming.SERVER_NAME_MIN, naming.SERVER_NAME_MAX
    return rf"[a-z][a-z0-9-]{{{low - 2},{high - 2}}}[a-z0-9]"


def _check_server_name(value: str) -> str:
    if re.fullmatch(_name_pattern(), value):
        return value
    high = naming.SERVER_NAME_MAX
    suggestion = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:high].rstrip("-")
    advice = f"; write {suggestion}" if re.fullmatch(_name_pattern(), suggestion) else ""
    raise ValueError(
        f"a name has {naming.SERVER_NAME_MIN} to {high} characters out of a-z, 0-9 and -, begins with a"
        f" letter and does not end with - (its service account is {naming.SERVER_PREFIX}NAME){advice}"
    )


ServerName = Annotated[
    str,
    AfterValidator(_check_server_name),
    FieldDoc(
        "name",
        "names",
        f"{naming.SERVER_NAME_MIN} to {naming.SERVER_NAME_MAX} of `a-z`, `0-9` and `-`; a letter first, no `-` last",
        pattern(_name_pattern()),
    ),
]

# Cloud Run's REST reference, projects.locations.services.create, on serviceId.
_SERVICE: Final = rf"[a-z][a-z0-9-]{{0,{naming.SERVICE_NAME_MAX - 2}}}[a-z0-9]"
ServiceName = Annotated[
    str,
    matching(
        _SERVICE,
        f"is not a service's name; use 2 to {naming.SERVICE_NAME_MAX} of a-z, 0-9 and -, a letter first, no - last",
    ),
    FieldDoc(
        "name",
        "names",
        f"2 to {naming.SERVICE_NAME_MAX} of `a-z`, `0-9` and `-`; a letter first, no `-` last",
        pattern(_SERVICE),
    ),
]

REGION_FORM: Final = r"[a-z]+(-[a-z]+)+[0-9]{1,2}"
REGIONS: Final = tuple(
    """
    africa-south1 asia-east1 asia-east2 asia-northeast1 asia-northeast2 asia-northeast3 asia-south1 asia-south2
    asia-southeast1 asia-southeast2 asia-southeast3 australia-southeast1 australia-southeast2 europe-central2
    europe-north1 europe-north2 europe-southwest1 europe-west1 europe-west10 europe-west12 europe-west2 europe-west3
    europe-west4 europe-west6 europe-west8 europe-west9 me-central1 me-central2 me-west1 northamerica-northeast1
    northamerica-northeast2 northamerica-south1 southamerica-east1 southamerica-west1 us-central1 us-east1 us-east4
    us-east5 us-south1 us-west1 us-west2 us-west3 us-west4
    """.split()  # noqa: SIM905 - a list would take forty lines
)
"""Cloud Run's regions (cloud.google.com/run/docs/locations, 2026-11). Without this check, a wrong region would fail in
the middle of a deployment, and Google would report it as a missing permission."""

NEW_REGIONS: Final = "new_regions"
"""The fleet's key for regions that are newer than this list, and the key of pydantic's context for them."""


def _check_region(value: str, info: ValidationInfo) -> str:
    context = cast("Mapping[str, Any]", info.context or {})
    if value not in REGIONS and value not in context.get(NEW_REGIONS, ()):
        nearest = find_nearest(value, REGIONS)
        advice = f"did you mean {nearest}? For" if nearest else "write one from `gcloud run regions list`; for"
        newer = f"one that is newer, add {NEW_REGIONS}: [{value}] to the fleet"
        raise ValueError(f"{value} is not a region of Cloud Run (of those of 2026-11); {advice} {newer}")
    return value


_REGION: Final = (
    matching(
        REGION_FORM,
        "is not a Cloud Run region; write one from `gcloud run regions list`, such as europe-west1 (no zone letter)",
    ),
    FieldDoc("region", "regions", "`gcloud run regions list`", pattern(REGION_FORM)),
)
Region = Annotated[str, *_REGION, AfterValidator(_check_region)]
NewRegion = Annotated[str, *_REGION]
"""A region that `REGIONS` need not contain."""

# Labels: "keys and values can contain lowercase letters, numbers, underscores and dashes; both at most
# 63 characters; keys begin with a letter" (Google Cloud, "Requirements for labels"). Keys that begin with
# goog are Google's own (the same page).
LabelKey = Annotated[
    str,
    matching(
        r"(?!goog)[a-z][a-z0-9_-]{0,62}",
        "cannot be a label's key; use at most 63 of a-z, 0-9, _ and -, beginning with a letter, and not with goog",
    ),
    FieldDoc(
        "label",
        "labels",
        "keys: 1 to 63 of `a-z`, `0-9`, `_`, `-`; a letter first, not `goog…`",
        pattern(r"(?!goog)[a-z][a-z0-9_-]{0,62}"),
    ),
]
LabelValue = Annotated[
    str,
    matching(r"[a-z0-9_-]{0,63}", "cannot be a label's value; use at most 63 of a-z, 0-9, _ and -"),
    FieldDoc("value", "values", "values: 0 to 63 of the same", pattern(r"[a-z0-9_-]{0,63}")),
]


def _check_folder(value: str, info: ValidationInfo) -> str:
    folder = Path(value)
    if not value.strip() or "\0" in value:
        raise ValueError("is empty; write a folder that holds a Dockerfile, such as ./my_server")
    if folder.is_absolute() or value.startswith("~"):
        raise ValueError(f"{value!r} is not a relative path; write the folder as seen from Pulumi.yaml")
    root = cast("dict[str, Path | None]", info.context or {}).get("root")
    if root is not None and (problem := folder_problem(root, value)):
        raise ValueError(problem)
    if root is not None and not (root / folder / "Dockerfile").is_file():
        raise ValueError(f"there is no {folder.as_posix()}/Dockerfile beside Pulumi.yaml; correct the folder or add it")
    if root is not None and not is_file_in(root / folder, "Dockerfile"):
        raise ValueError(f"in {folder.as_posix()}, {unsafe_file_message('Dockerfile')}")
    return value


Folder = Annotated[
    str,
    Field(max_length=1024),
    AfterValidator(_check_folder),
    FieldDoc("folder", "folders", "below or beside `Pulumi.yaml`, not absolute; has a `Dockerfile`"),
]

_VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]{0,255}"
BuildArgName = Annotated[
    str,
    matching(_VARIABLE, "is not a build argument's name; use letters, digits and _, no digit first"),
    FieldDoc("name", "names", "names: letters, digits, `_`; no digit first", pattern(_VARIABLE)),
]


def check_environment_name(value: str) -> str:
    """Check the name of a variable that a user sets.

    Raises:
        ValueError: The name is not valid, or Cloud Run or mcpfleet sets this variable.
    """
    if not re.fullmatch(_VARIABLE, value):
        raise ValueError(f"{value[:200]!r} is not a variable's name; use letters, digits and _, no digit first")
    if value == "PORT" or value.startswith(("K_", "X_GOOGLE_")):
        raise ValueError(f"{value} is Cloud Run's own; remove it")
    if value in environment.INJECTED:
        raise ValueError(f"{value} is set by mcpfleet; remove it ({environment.INJECTED[value]})")
    return value


EnvironmentName = Annotated[
    str,
    AfterValidator(check_environment_name),
    FieldDoc(
        "variable",
        "variables",
        "names: letters, digits, `_`; no digit first; not Cloud Run's (`PORT`, `K_…`, `X_GOOGLE_…`), not"
        " [the fleet's](#environment-variables-of-a-container)",
        pattern(_VARIABLE),
    ),
]

# Approximations of the key formats that issuers publish for secret scanners.
_KEY_FORMS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAIza[0-9A-Za-z_-]{35}|\bya29\.|\bAKIA[0-9A-Z]{16}|\bgh[opsur]_[0-9A-Za-z]{36}"
    r"|\bgithub_pat_|\bglpat-|\bxox[abprs]-|\bsk-[A-Za-z0-9_-]{20}|\bnpm_[0-9A-Za-z]{36}|\beyJ[\w-]+\.eyJ[\w-]+\."
    r"|://[^/\s:@]+:[^/\s@]+@"
)
_SECRET_NAME: Final = re.compile(
    r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY|CREDENTIALS?)$", re.IGNORECASE
)


def looks_like_secret(name: str, value: str) -> bool:
    """Check whether a plain variable looks like a secret, by the format of its value or by its name.

    The name alone does not count for a path, a URL, a number or a boolean.
    """
    if _KEY_FORMS.search(value):
        return True
    plain = re.fullmatch(r"|true|false|[0-9.]+|/.*|[a-z]+://.*|projects/.*", value, re.IGNORECASE)
    return bool(_SECRET_NAME.search(name)) and not plain


def _check_url_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]{0,255}", value) or "//" in value or (value != "/" and value.endswith("/")):
        raise ValueError(f"{value[:200]!r} is not a path; write it as /mcp: / first, no / last, no query")
    if value.endswith("z"):
        raise ValueError(f"{value} ends in z, and Google's front end answers such paths itself; write another")
    return value


UrlPath = Annotated[
    str,
    AfterValidator(_check_url_path),
    FieldDoc(
        "path",
        "paths",
        "`/` first, then letters, digits, `.`, `_`, `~`, `-`, `/`; no `/` last, no `z` last; at most 256 characters",
        pattern(r"/[A-Za-z0-9._~/-]{0,255}"),
    ),
]


def _check_endpoint_path(value: str) -> str:
    return f"{_check_url_path(value[:-1])}/" if len(value) > 2 and value.endswith("/") else _check_url_path(value)


EndpointPath = Annotated[
    str,
    AfterValidator(_check_endpoint_path),
    FieldDoc(
        "path",
        "paths",
        "`/` first, then letters, digits, `.`, `_`, `~`, `-`, `/`; a `/` last where the server redirects there; no `z`"
        " last; at most 256 characters",
        pattern(r"/[A-Za-z0-9._~/-]{0,255}"),
    ),
]
"""The path of an MCP endpoint. It can end in a slash, because some servers redirect to such a path."""

_ORIGIN: Final = r"https?://[a-z0-9.-]+(:[0-9]{1,5})?"
Origin = Annotated[
    str,
    matching(
        _ORIGIN, "is not an origin; write https://HOST[:PORT] in small letters, without a path (* is not accepted)"
    ),
    FieldDoc("origin", "origins", "`https://HOST[:PORT]` or `http://…`; no path, no `*`", pattern(_ORIGIN)),
]

# Printable ASCII without a comma, and no - first, because the audience becomes an argument of commands.
_AUDIENCE: Final = r"[!-+.-~][!-+\--~]{0,2047}"
Audience = Annotated[
    str,
    matching(
        _AUDIENCE,
        "is not an audience; write a URL or a word without spaces and commas, such as https://mcp.acme.dev",
    ),
    FieldDoc(
        "audience",
        "audiences",
        "letters, digits and punctuation; no spaces, no commas, no `-` first, at most 2,048 characters",
        pattern(_AUDIENCE),
    ),
]

# A host name of at least two labels (RFC 1123), in lowercase, because DNS ignores case.
_DOMAIN: Final = r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?"


def _check_domain(value: str) -> str:
    if not re.fullmatch(_DOMAIN, value):
        raise ValueError(
            f"{value[:200]!r} is not a domain; write it as mcp.acme.dev: small letters, no https://, no path"
        )
    if value.endswith((".run.app", ".google.com", ".googleapis.com")):
        raise ValueError(f"{value} is Google's; write a domain whose DNS you control")
    if len(value) > 63:
        # Google-managed certificates: "the domain's length must be less than 64 bytes" (compute.sslCertificates).
        raise ValueError(f"{value} has {len(value)} characters; a managed certificate takes at most 63, shorten it")
    return value


Domain = Annotated[
    str,
    AfterValidator(_check_domain),
    FieldDoc("domain", "domains", "a DNS name of yours, at most 63 characters", pattern(_DOMAIN)),
]

_TAG: Final = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
NetworkTag = Annotated[
    str,
    matching(_TAG, "is not a network tag; use at most 63 of a-z, 0-9 and -, beginning with a letter"),
    FieldDoc("tag", "network tags", "1 to 63 of `a-z`, `0-9`, `-`; a letter first", pattern(_TAG)),
]

_NETWORK: Final = (
    r"(projects/[a-z0-9:.-]+/(global|regions/[a-z0-9-]+)/(networks|subnetworks)/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
)
Network = Annotated[
    str,
    matching(_NETWORK, "is not a network; write its NAME, or projects/P/global/networks/NAME where it is shared"),
    FieldDoc("network", "networks", "a name, or its full path in a host project", pattern(_NETWORK)),
]

# A label of RFC 1123, which Cloud Run requires for a container's name.
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
ContainerName = Annotated[
    str,
    matching(_LABEL, "is not a container's name; use at most 63 of a-z, 0-9 and -, no - first or last"),
    FieldDoc("name", "names", "names: 1 to 63 of `a-z`, `0-9`, `-`; no `-` first or last", pattern(_LABEL)),
]
_VOLUME: Final = rf"(?!{naming.FLEET_VOLUME_PREFIX}){_LABEL}"
VolumeName = Annotated[
    str,
    matching(
        _VOLUME,
        f"is not a volume's name; use at most 63 of a-z, 0-9 and -, no - first or last, and not"
        f" {naming.FLEET_VOLUME_PREFIX}…",
    ),
    FieldDoc(
        "name",
        "names",
        f"names: 1 to 63 of `a-z`, `0-9`, `-`; no `-` first or last, not `{naming.FLEET_VOLUME_PREFIX}…`",
        pattern(_VOLUME),
    ),
]

# Cloud Run, "Configure secrets", "Disallowed paths and limitations": no mounts at or below these. A mount at /etc
# itself would hide the names of users and hosts; below it, as at /etc/secrets, Google's guides mount secrets.
_UNMOUNTABLE: Final = ("/dev", "/proc", "/sys")
_HIDDEN_BY_MOUNT: Final = "/etc"


def check_mount_path(value: str) -> str:
    """Check the path of a mount in a container.

    Raises:
        ValueError: The path is not valid, or Cloud Run allows no mount there.
    """
    if (
        not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", value)
        or len(value) > 255
        or "/../" in f"{value}/"
        or "/./" in f"{value}/"
    ):
        raise ValueError(f"{value[:200]!r} is not a path in a container; write it as /data: / first, no / last")
    top = next((place for place in _UNMOUNTABLE if value == place or value.startswith(f"{place}/")), None)
    if top:
        raise ValueError(f"Cloud Run allows no mounts at {top}; write another path, such as /data")
    if value == _HIDDEN_BY_MOUNT:
        raise ValueError(f"{value} would hide the names of users and hosts; write a folder in it: /etc/secrets")
    return value


MountPath = Annotated[
    str,
    AfterValidator(check_mount_path),
    FieldDoc(
        "path in the container",
        "paths in the container",
        "`/` first, no `/` last; not `/etc`, not below `/dev`, `/proc`, `/sys`",
        pattern(r"(/[A-Za-z0-9._-]+)+"),
    ),
]

# Cloud Storage, "Bucket names": 3 to 63 (222 with dots) of a-z, 0-9, -, _ and dots, a letter or digit at both ends.
_BUCKET: Final = r"(?!goog)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
Bucket = Annotated[
    str,
    matching(_BUCKET, "is not a bucket; write its name without gs://, in small letters"),
    FieldDoc("bucket", "buckets", "a name without `gs://`", pattern(_BUCKET)),
]
