"""The features of the reference server that work with each tested client, for the tests and the guide."""

FEATURES = (
    "tools",
    "structured output",
    "tool error",
    "image",
    "audio",
    "embedded resource",
    "progress",
    "resources",
    "templates",
    "prompts",
    "completion",
    "logging",
    "elicitation",
    "sampling",
)
ALL = frozenset(FEATURES)

# What each test tries; a feature that is missing here was not tried with that client.
TABLE = {
    "Python 2.3": ALL,
    "FastMCP 4.1": ALL,
    "TypeScript 2.4": ALL - {"logging"},
    "TypeScript 1.32": ALL,
    "Go 1.8": ALL - {"logging"},
    "Inspector CLI 2.12": ALL - {"tool error", "progress", "completion", "logging", "elicitation", "sampling"},
    "mcp-remote 0.15 (SSE)": ALL,
}

# Clients of protocol versions with a handshake are asked by a request of the server's own.
NEEDS_SESSION = {"TypeScript 1.32": frozenset({"elicitation", "sampling"})}


def table() -> str:
    """The table of the guide."""
    rows = [f"| feature | {' | '.join(TABLE)} |", f"|---|{'---|' * len(TABLE)}"]
    for feature in FEATURES:
        marks = [
            "" if feature not in works else "✓ with sessions" if feature in NEEDS_SESSION.get(client, ()) else "✓"
            for client, works in TABLE.items()
        ]
        rows.append(f"| {feature} | {' | '.join(marks)} |")
    return "\n".join(rows) + "\n"
