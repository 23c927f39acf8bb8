"""What the provider answers instead of a result."""


class BuildError(Exception):
    """A refusal or failure, in a sentence for the user; the resource is as it was before."""


class CancelledError(BuildError):
    """The user stopped the update."""


def inert(text: str) -> str:
    """*text* as it may be shown: builds write what their source wants, escape sequences and Pulumi's markup too."""
    shown = "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape", "replace").decode()
        for sign in text
    )
    return shown.replace("<{%", "< {%")
