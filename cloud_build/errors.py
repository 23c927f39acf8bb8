"""What the provider answers instead of a result."""


class BuildError(Exception):
    """A refusal or failure, in a sentence for the user; the resource is as it was before."""


class CancelledError(BuildError):
    """The user stopped the update."""
