"""The properties of docker-build:index:Image (pulumi-docker-build provider/internal/image.go, 0.0.22)."""

from typing import Final

from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, mapping, text, texts

_NETWORKS: Final = ("default", "host", "none")

IMAGE: Final[tuple[Field, ...]] = (
    boolean("push", required=True),
    texts("addHosts"),
    mapping("buildArgs"),
    boolean("buildOnPreview", default=True),
    block("context", [text("location", required=True)]),
    block("dockerfile", [text("inline"), text("location")]),
    texts("ignoreSecretsInDiffCalculation"),
    mapping("labels"),
    boolean("load"),
    text("network", default="default", choices=_NETWORKS),
    boolean("noCache"),
    texts("platforms"),
    boolean("pull"),
    blocks("registries", [text("address", required=True), text("username"), text("password", secret=True)]),
    mapping("secrets", secret=True),
    texts("tags"),
    text("target"),
    text("contextHash", output=True),
    text("digest", output=True),
    text("ref", output=True),
)
REFUSED: Final = ("builder", "cacheFrom", "cacheTo", "exec", "exports", "ssh")  # real, but not in the stand-in
UNCOMPARED: Final = frozenset({"ignoreSecretsInDiffCalculation"})
