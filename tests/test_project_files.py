"""What the project says of itself holds: READMEs agree, dependencies are locked, licences are there."""

import re
import tomllib

import pytest

from workshop_lib.cli import main
from workshop_lib.workspace import REPOSITORY


def text(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def commands(readme):
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL))
    shell = [line.split("#")[0].strip() for line in blocks.splitlines()]
    return shell + re.findall(r"^\| `([^`]+)`", readme, re.MULTILINE)


def test_both_readmes_give_the_same_commands():
    assert commands(text("README.md")) == commands(text("README.en.md"))


@pytest.mark.parametrize("name", ["README.md", "README.en.md"])
def test_every_make_target_and_workshop_command_of_the_readme_exists(name, capsys):
    targets = re.findall(r"^([\w-]+):", text("Makefile"), re.MULTILINE)
    named = set(re.findall(r"`?make ([\w-]+)`?(?=`| +#|$)", text(name), re.MULTILINE))
    assert {"course", "test", "test-nvidia"} <= named <= set(targets)
    for command in set(re.findall(r"workshop (\w+)", text(name))):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0


@pytest.mark.parametrize("name", ["README.md", "README.en.md"])
def test_every_link_of_the_readme_leads_to_a_file(name):
    for link in re.findall(r"\]\(([^)]+)\)", text(name)):
        assert (REPOSITORY / link).exists(), link


def test_the_readmes_lead_to_every_document_and_say_the_same_of_what_was_run():
    documents = {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")}
    marks = []
    for name in ("README.md", "README.en.md"):
        assert documents <= set(re.findall(r"\]\(([^)]+)\)", text(name)))
        table = [line.split("|")[2:-1] for line in text(name).splitlines() if line.startswith("|") and re.search("[●○]", line)]
        marks.append([re.findall("[●○–]", " ".join(row)) for row in table])
    assert marks[0] == marks[1] and len(marks[0]) > 5


def test_the_lock_holds_every_dependency_exactly():
    locked = {
        re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
        for line in text("constraints.txt").splitlines()
        if re.match(r"[\w.-]+==", line)
    }
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in wanted} - {"workshop-lib"}
    assert names <= locked


def test_licences_are_whole():
    assert "Apache License" in text("LICENSE") and "Version 2.0" in text("LICENSE")
    assert "Attribution 4.0 International" in text("LICENSE-CC-BY-4.0")
