# make setup      .venv with everything the series and the tests need, and the fast operator if there is a compiler
# make notebooks  set up, then execute the series into build/notebooks, with progress
# make test       set up, then run the tests
# make lab        set up, then open the series in JupyterLab
# make pages      set up, then execute notebooks/src into the committed notebooks
# make site       set up, then the committed notebooks as a web site in build/site, which needs no network to be read
# make docs       set up, then the API reference from the docstrings in build/docs, which needs no network to be read
# make lint       set up, then check style and types
# make bench      set up, then time the operator against its peers (about ten minutes, on an idle machine)
# make sanitize   set up, then run the operator's tests under AddressSanitizer and UndefinedBehaviorSanitizer

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup notebooks test lab pages site docs lint bench sanitize clean

# Without a compiler the second step says so in a sentence, and the operator in plain PyTorch serves.
setup: $(READY)
	@$(BIN)/python -m ddetr.ops build || true

# The stamp is written last, so that an interrupted set-up is taken up again.
$(READY): pyproject.toml
	@echo "Setting up $(VENV): PyTorch and its CUDA libraries take about 6 GB and a few minutes, once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e ".[course,test]"
	@touch $(READY)

notebooks: setup
	$(BIN)/python -m ddetr.course.pages --out build/notebooks

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup

lab: setup
	$(BIN)/jupyter lab notebooks

pages: setup
	$(BIN)/python -m ddetr.course.pages --out notebooks

site: setup
	$(BIN)/python -m ddetr.course.site --out build/site

docs: setup
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/pdoc --docformat google --no-show-source --output-directory build/docs \
		ddetr ddetr.ops ddetr.models ddetr.losses ddetr.data ddetr.engine ddetr.checkpoints ddetr.course \
		ddetr.viz ddetr.viz.sampling_explorer

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/ms_deform_attn.py

sanitize: setup
	bash tests/ops/sanitize.sh $(BIN)/python

clean:
	rm -rf $(VENV) build dist
