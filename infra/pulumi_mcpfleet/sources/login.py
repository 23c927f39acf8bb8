"""The image of `access: login`: the program `mcpfleet_login`, in an environment that its lock fixes."""

from typing import Final

from pulumi_mcpfleet.sources.build_plan import TOOLS_STAGE, USER, cmd_list

START: Final = ("/opt/login/bin/python", "-m", "mcpfleet_login")


def login_dockerfile() -> str:
    """Return the Dockerfile, for a build context with the files of `staging.stage_login`."""
    return f"""\
{TOOLS_STAGE}
FROM tools AS build
WORKDIR /src
COPY requirements.txt ./
RUN uv venv --quiet /opt/login \\
    && uv pip sync --quiet --require-hashes --python /opt/login/bin/python requirements.txt \\
    && /opt/login/bin/python -c "import pathlib, site; \\
pathlib.Path(site.getsitepackages()[0], 'login.pth').write_text('/opt/login-code')"
COPY mcpfleet_login /opt/login-code/mcpfleet_login/
COPY mcpfleet_server /opt/login-code/mcpfleet_server/
# unchecked-hash: the bytecode depends on the text of the files alone, never on their dates.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/login-code

FROM ${{BASE_IMAGE}}
COPY --from=build /opt/login /opt/login
COPY --from=build /opt/login-code /opt/login-code
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER {USER}
CMD {cmd_list(START)}
"""
