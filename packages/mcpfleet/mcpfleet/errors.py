"""Errors that are a person's to solve: one message, which ends with the next step.

The command line prints the message and exits with `exit_code`; a library user catches `McpfleetError`.
"""

from __future__ import annotations


class McpfleetError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class UsageError(McpfleetError):
    """The command was asked for something that cannot be, such as a URL without a host."""

    exit_code = 2


class AuthError(McpfleetError):
    """No ID token could be had."""


class NoCredentialsError(AuthError):
    """This machine holds no Google credentials at all."""


class CredentialsFileError(AuthError):
    """A credentials or token file cannot be read, or is not what it should be."""


class UnsupportedCredentialsError(AuthError):
    """The credentials cannot make ID tokens: neither a service account's nor a person's."""


class CredentialsRefusedError(AuthError):
    """The token endpoint answered, and said no."""


class TokenEndpointUnavailableError(AuthError):
    """The token endpoint or the metadata server did not answer; trying again may help."""
