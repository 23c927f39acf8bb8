"""The agents of examples/agent, as a repository of their own: what examples/agent/README.md says of them."""

from pathlib import Path

import pytest

from pulumi_mcpfleet.sources import BuildOptions, Layout, plan_build

AGENTS = Path(__file__).parents[4] / "examples" / "agent"


@pytest.mark.parametrize("framework", ["adk", "pydantic-ai"])
def test_an_agent_that_is_copied_is_a_repository_that_needs_no_dockerfile(framework):
    copied = [AGENTS / "main.py", *(AGENTS / framework).glob("*.*")]
    plan = plan_build(
        Layout.from_files({file.name: file.read_text() for file in copied if file.is_file()}), BuildOptions()
    )
    assert [decision.partition(":")[0] for decision in plan.decisions] == [
        "Python (`language`)",
        "uv",
        "python main.py",
    ]
    assert 'CMD ["python", "main.py"]' in plan.dockerfile
