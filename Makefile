# Two commands on a bare machine: `make course` and `make test`. `make lab` opens JupyterLab; LAB takes options for it.
PYTHON ?= python3
BIN := .venv/bin
# Idle threads that spin slow a busy machine down several times.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: env course test test-nvidia lab lock notebooks clean
env: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

course: env
	$(BIN)/workshop run
	$(BIN)/workshop notebooks execute --to runs/default/notebooks
	$(BIN)/workshop report

test: env
	$(BIN)/ruff check
	$(BIN)/workshop notebooks check
	$(BIN)/pytest -q tests
	$(BIN)/pytest -q --nbval --nbval-current-env --nbval-cell-timeout=600 solutions notebooks \
		tests/test_report_card.py::test_a_table_asks_for_metrics_that_its_stage_writes

# Optional: NeMo Curator, NeMo Run and their kind in an environment of their own (Linux, Python 3.11-3.13, 2.3 GB with a CPU torch).
NVIDIA ?= .venv-nvidia

test-nvidia: $(NVIDIA)/ready
	$(NVIDIA)/bin/python -m pytest -q -m nvidia tests/nvidia

# Further tools: they ask for versions that do not go together and run with these, so nothing of theirs is resolved.
BESIDE := tests/nvidia/requirements-recipes.txt tests/nvidia/requirements-skypilot.txt

$(NVIDIA)/ready: tests/nvidia/requirements.txt tests/nvidia/constraints.txt $(BESIDE)
	$(PYTHON) -m venv $(NVIDIA)
	$(NVIDIA)/bin/python -m pip install --quiet --upgrade pip
	$(NVIDIA)/bin/python -m pip install --quiet $$(grep '^torch==' $<) --constraint tests/nvidia/constraints.txt
	$(NVIDIA)/bin/python -m pip install --quiet --requirement $< --constraint tests/nvidia/constraints.txt
	$(NVIDIA)/bin/python -m pip install --quiet --no-deps $(addprefix --requirement ,$(BESIDE))
	$(NVIDIA)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

lab: env
	JUPYTER_CONFIG_PATH=$(CURDIR)/jupyter $(BIN)/jupyter lab $(LAB) notebooks/week01_setup.ipynb

notebooks: env
	$(BIN)/workshop notebooks execute
	$(BIN)/workshop notebooks build

lock:
	uv pip compile pyproject.toml --extra dev --universal --no-emit-find-links --no-annotate \
		--custom-compile-command 'make lock' --output-file constraints.txt

clean:
	rm -rf runs .venv $(NVIDIA)
