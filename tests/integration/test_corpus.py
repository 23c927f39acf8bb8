"""Every complete server of the corpus is built as `up` does, run as Cloud Run does, and called.

    ./dev test --as-root -m corpus            # all of them: about a minute each
    ./dev test --as-root -m corpus -k nvmrc   # those whose name says so

Without Pulumi and without a cloud: the folder goes through `plan_build` and the builder alone. What each run of the
tests builds of the corpus is in test_sources.py.
"""

import pytest

from pulumi_mcpfleet.sources import Layout, plan_build
from pulumi_mcpfleet.sources.staging import stage_source
from tests.corpus.corpus import CASES
from tests.integration.built_sources import answers, image_of, served, told

pytestmark = [pytest.mark.corpus, pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if case.answers])
def test_a_layout_is_built_and_answers(case, tmp_path):
    source = tmp_path / "source"
    for name, content in case.files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content.encode() if isinstance(content, str) else content)
    recipe = plan_build(Layout.read(source), case.asked)
    if case.asked.speaks == "stdio":
        stage_source(source, tmp_path / "copy")
        source = tmp_path / "copy"
    text = recipe.dockerfile or (source / recipe.dockerfile_path).read_text()
    with image_of(text, source, case.asked.build_args) as image, served(image, told(recipe)) as url:
        answers(url, "shout", {"text": "gruezi"}, "GRUEZI")
