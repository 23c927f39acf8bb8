"""Keys for servers that need more than their packages: each is built, run as Cloud Run does, and called.

./dev test --as-root -m corpus -k recipes
"""

import pytest

from pulumi_mcpfleet.sources import BuildOptions, Layout, plan_build
from pulumi_mcpfleet.sources.build_plan import FromImage
from tests.corpus.servers import NPM, PLAIN, PY_HTTP
from tests.integration.built_sources import BASE_IMAGE, answers, image_of, served

pytestmark = [pytest.mark.corpus, pytest.mark.integration, pytest.mark.timeout(900)]


def write(place, files):
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_binaries_copied_from_another_image_run(tmp_path):
    tool = f'FROM {BASE_IMAGE}\nRUN printf "#!/bin/sh\\necho loud: \\$1\\n" > /shouter && chmod 755 /shouter\n'
    server = PY_HTTP.replace("said.upper()", 'subprocess.check_output(["shouter", said], text=True).strip()')
    files = {**PLAIN, "server.py": server.replace("import json,", "import subprocess, json,")}
    source = write(tmp_path / "server" / "source", files)
    with image_of(tool, write(tmp_path / "tool" / "source", {})) as made:
        wish = BuildOptions(copy_from={"/usr/local/bin/shouter": FromImage(made, "/shouter")})
        recipe = plan_build(Layout.read(source), wish)
        with image_of(recipe.dockerfile, source) as image, served(image) as url:
            answers(url, "shout", {"text": "gruezi"}, "loud: gruezi")


@pytest.mark.parametrize("files", [PLAIN, NPM], ids=["python", "node"])
def test_a_server_can_write_to_a_data_folder_beside_its_code(files, tmp_path):
    python = 'note("/app/data", said)'
    node = 'note("/app/data", params.arguments.text)'
    of_python = "def note(folder, said):\n    open(f'{folder}/new', 'w').write(said)\n"
    of_python += "    return open(f'{folder}/old').read().strip() + ' ' + open(f'{folder}/new').read()\n"
    of_node = 'const fs = require("fs");\nconst note = (folder, said) => { fs.writeFileSync(`${folder}/new`, said);'
    of_node += ' return fs.readFileSync(`${folder}/old`, "utf8").trim() + " " + fs.readFileSync(`${folder}/new`); };\n'
    changed = {
        name: of_python + text.replace("said.upper()", python)
        if name.endswith(".py")
        else of_node + text.replace("params.arguments.text.toUpperCase()", node)
        if name.endswith(".js")
        else text
        for name, text in files.items()
    }
    source = write(tmp_path / "server" / "source", {**changed, "data/old": "was there"})
    recipe = plan_build(Layout.read(source), BuildOptions(writable=["/app/data"]))
    mounted = ["--tmpfs=/app/data:mode=1777"]
    with image_of(recipe.dockerfile, source) as image, served(image, mounted) as url:
        answers(url, "shout", {"text": "gruezi"}, "was there gruezi")
