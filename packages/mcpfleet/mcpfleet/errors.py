"""Errors that a user can fix: one message each, which ends with the next step.

The command line prints the message and exits with `exit_code`. Users of the library catch `McpfleetError`.
"""

from __future__ import annotations


class McpfleetError(Exception):
    """The base class of the errors of this package."""

    exit_code = 1


class UsageError(McpfleetError):
    """An option or argument is invalid, such as a URL without a host."""

    exit_code = 2


class AuthError(McpfleetError):
    """There is no ID token to call with."""


class NoCredentialsError(AuthError):
    """This machine has no Google credentials."""


class CredentialsFileError(AuthError):
    """A credentials file or token file cannot be read, or is invalid."""


class UnsupportedCredentialsError(AuthError):
    """The credentials have no ID tokens: they are neither a service account's nor a person's."""


class CredentialsRefusedError(AuthError):
    """The token endpoint refused the credentials."""


class TokenEndpointUnavailableError(AuthError):
    """The token endpoint or the metadata server did not respond; trying again may help."""
