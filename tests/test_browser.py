"""A student's JupyterLab in a real browser: the notebook runs from top to bottom, and an exercise goes from wrong to right."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from workshop_lib.exercises import find
from workshop_lib.notebooks import NOTEBOOKS
from workshop_lib.workspace import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RUN_ALL = """
const done = arguments[arguments.length - 1];
const panel = window.jupyterapp.shell.currentWidget;
window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => done(JSON.stringify(panel.content.model.toJSON().cells)));
"""
RUN_CELL = """
const [id, source, done] = arguments;
const notebook = window.jupyterapp.shell.currentWidget.content;
const index = notebook.widgets.findIndex(widget => widget.model.id === id);
notebook.activeCellIndex = index;
if (source !== null) notebook.widgets[index].model.sharedModel.setSource(source);
window.jupyterapp.commands.execute('notebook:run-cell').then(() => done(notebook.widgets[index].model.toJSON().outputs));
"""
CELL = "return window.jupyterapp.shell.currentWidget.content.widgets.find(widget => widget.model.id === arguments[0])"
READY = "return window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@pytest.fixture
def lab(browser, tmp_path):  # the browser first: without one nothing need be started
    """JupyterLab with the course's settings on a free port, serving copies of the student notebooks."""
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=course", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={tmp_path / 'notebooks'}",
    ]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": str(REPOSITORY / "jupyter")}
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token=course")
            yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?token=course&reset"
        finally:
            server.terminate()
            server.wait(20)


def wait_for(url, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def test_week_1_runs_from_top_to_bottom_in_jupyterlab(lab, browser, until):
    browser.get(lab.format(name="week01_setup.ipynb"))
    until(lambda: browser.execute_script(READY), 90)
    cells = json.loads(browser.execute_async_script(RUN_ALL))
    code = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [output for c in code for output in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert any("⬜" in "".join(o.get("text", "")) for o in outputs)
    screenshot(browser, "week01")


def test_the_first_exercise_goes_from_wrong_with_its_hint_to_right(lab, browser, until):
    exercise = find(1)[0]

    def run(cell, source=None):
        outputs = browser.execute_async_script(RUN_CELL, cell, source)
        assert not [output for output in outputs if output["output_type"] == "error"], outputs
        return "".join("".join(output.get("text", "")) for output in outputs)

    def answer(body):
        run("w01-neighbours", stub.replace("raise NotImplementedError", body))
        return run("w01-neighbours-check")

    browser.get(lab.format(name="week01_setup.ipynb"))
    until(lambda: browser.execute_script(READY), 90)
    stub = browser.execute_script(CELL + ".model.sharedModel.getSource()", "w01-neighbours")
    run("w01-imports")
    assert answer("raise NotImplementedError").startswith("⬜")
    assert answer("return list(zip(text, text[1:]))").startswith(f"❌ {exercise.mistakes[0].hint}")
    screenshot(browser, "exercise-wrong")

    hint = browser.execute_script(CELL + ".node.querySelector('details')", "w01-neighbours-hints")
    told = exercise.hints[0].replace("`", "")
    assert told not in hint.text  # folded
    hint.find_element("tag name", "summary").click()
    until(lambda: told in hint.text, 5)
    screenshot(browser, "exercise-hint")

    assert answer("return list(zip(START + text, text + END))").startswith("✅")
    screenshot(browser, "exercise-right")


def screenshot(browser, name):
    if folder := os.environ.get("WORKSHOP_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))
