"""Type tokens are pinned: a changed one replaces every resource of every stack."""

import importlib
import inspect
import pkgutil

import pulumi

import pulumi_mcpfleet
from pulumi_mcpfleet import tokens

PINNED = {
    "CLOUD_BUILD": "mcpfleet:index:CloudBuild",
    "CLOUD_BUILT_IMAGE": "mcpfleet-build:index:Image",
    "CUSTOM_DOMAIN": "mcpfleet:index:CustomDomain",
    "FLEET": "mcpfleet:index:Fleet",
    "FOUNDATION": "mcpfleet:index:Foundation",
    "LOAD_BALANCER": "mcpfleet:index:LoadBalancer",
    "MCP_CLIENT": "mcpfleet:index:McpClient",
    "MCP_SERVER": "mcpfleet:index:McpServer",
    "SERVICE_MESH": "mcpfleet:index:ServiceMesh",
}


def components():
    for module in pkgutil.walk_packages(pulumi_mcpfleet.__path__, "pulumi_mcpfleet."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, pulumi.ComponentResource) and member.__module__.startswith("pulumi_mcpfleet."):
                yield member


def test_tokens_are_the_pinned_ones():
    assert {name: value for name, value in vars(tokens).items() if name.isupper()} == PINNED


def test_every_component_of_the_package_has_a_pinned_token_of_its_name():
    names = {component.__name__ for component in components()}
    assert names == {token.rpartition(":")[2] for token in PINNED.values() if token.startswith("mcpfleet:")}


def test_every_component_registers_with_its_token():
    for component in set(components()):
        constant = next(name for name, token in PINNED.items() if token.endswith(f":{component.__name__}"))
        assert f"super().__init__({constant}, name, None, opts)" in inspect.getsource(component)
