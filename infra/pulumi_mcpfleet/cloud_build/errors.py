"""The errors of the provider, and the escaping of text for its messages."""


class BuildError(Exception):
    """A refused or failed operation, with a message for the user. The resource is unchanged."""


class CancelledError(BuildError):
    """The user stopped the update."""


def inert(text: str) -> str:
    """Escape *text* for display: a build's output can have terminal escape sequences and Pulumi's markup."""
    printable = "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape", "replace").decode()
        for character in text
    )
    return printable.replace("<{%", "< {%")
