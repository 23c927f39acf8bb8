"""The commands in a folder that is not this checkout: they name what its user has, and its project."""

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.processes import Processes
from mcpfleet_local_cloud.commands.stack_state import find_deployed_stack, state_file


def test_a_project_has_the_name_in_its_pulumi_yaml(tmp_path):
    (tmp_path / "Pulumi.yaml").write_text("description: none\nname: 'other-fleet' # ours\nruntime: python\n")
    folder = CloudFolder(root=tmp_path, state=tmp_path / "state", stack="mine")
    assert folder.project == "other-fleet"
    file = state_file(folder)
    assert file.parts[-2:] == ("other-fleet", "mine.json")
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_deployed_stack(folder.state) == "mine"


def test_a_program_is_identified_by_its_file_name_in_any_folder(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (python) S 1 7 7")
    (tmp_path / "7" / "cmdline").write_bytes(b"/x/python\0/x/bin/mcpfleet-local-cloud\0up\0")
    assert Processes(proc=tmp_path).is_running(7, ["mcpfleet-local-cloud", "up"])
    assert not Processes(proc=tmp_path).is_running(7, ["local-cloud"])
