"""Errors as Google's APIs report them.

A model raises `GoogleError`; the app renders it as `{"error": {code, message, status, errors, details}}`, the
shape that googleapi.CheckResponse, google-auth and gcloud parse (docs: cloud.google.com/apis/design/errors).
No error here has the code 500 on purpose: clients retry 429, 500, 502 and 503 for minutes, so that a refusal
would look like a hang.
"""

from collections.abc import Mapping
from typing import Any, Final

HTTP_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    # Cloud Storage's own reason (conditionNotMet); gRPC has no status for it.
    "CONDITION_NOT_MET": 412,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
}
RPC_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 3,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAUTHENTICATED": 16,
}


class GoogleError(Exception):
    """An error in the form in which Google's APIs report it.

    Args:
        status: the canonical code's name, for example `NOT_FOUND`.
        message: the text that the user reads.
        reason: the `ErrorInfo.reason`, where clients act on it (`SERVICE_DISABLED`).
        metadata: the `ErrorInfo.metadata`.
        domain: the `ErrorInfo.domain`.
    """

    def __init__(
        self,
        status: str,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        domain: str = "googleapis.com",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.domain = domain

    @property
    def http_code(self) -> int:
        """The HTTP status code."""
        return HTTP_CODES[self.status]

    def body(self) -> dict[str, Any]:
        """The JSON body of an HTTP response."""
        error: dict[str, Any] = {"code": self.http_code, "message": self.message, "status": self.status}
        if self.reason is not None:
            info = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": self.reason,
                "domain": self.domain,
                "metadata": self.metadata,
            }
            error["details"] = [info]
            legacy = {"message": self.message, "domain": "global", "reason": self.reason}
            if self.reason == "SERVICE_DISABLED":
                # The older error list has another reason, and the provider looks for that one (isApiNotEnabledError).
                legacy |= {"domain": "usageLimits", "reason": "accessNotConfigured"}
            error["errors"] = [legacy]
        return {"error": error}

    def rpc_status(self) -> dict[str, Any]:
        """The `google.rpc.Status` of a failed long-running operation."""
        return {"code": RPC_CODES[self.status], "message": self.message}


def not_found(name: str) -> GoogleError:
    """The error for a resource that does not exist; *name* is its full name."""
    return GoogleError("NOT_FOUND", f"Resource '{name}' was not found.")


def already_exists(name: str) -> GoogleError:
    """The error for a resource whose *name* is taken."""
    return GoogleError("ALREADY_EXISTS", f"Resource '{name}' already exists.")


def invalid(message: str) -> GoogleError:
    """The error for a request that can never succeed as written; *message* begins with the field's path."""
    return GoogleError("INVALID_ARGUMENT", message)


def unimplemented(field: str, reason: str) -> GoogleError:
    """The error for a *field* that Google supports and the local cloud does not: it is refused rather than ignored."""
    return GoogleError("UNIMPLEMENTED", f"{field}: the local cloud does not support this field yet: {reason}")


def etag_conflict(resource: str) -> GoogleError:
    """The error for a change that is based on an outdated version of *resource* (IAM responds with 409 ABORTED)."""
    return GoogleError(
        "ABORTED",
        f"There were concurrent policy changes on {resource}. Please retry the whole read-modify-write with "
        "exponential backoff.",
    )
