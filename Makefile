# `make` lists the targets. They are the tasks of bootstrap.py, which has the steps; what is in ARGS is passed on:
#     make notebooks ARGS="00_tour 01_backbone_features"
#     make test PYTHON=python3.12 DDETR_VENV=/somewhere/else ARGS="tests/ops"

PYTHON ?= python3
TASKS := help setup notebooks test lab pages site docs lint bench sanitize clean

.PHONY: $(TASKS)

$(TASKS):
	@$(PYTHON) bootstrap.py $@ $(ARGS)
