# make demo | serve | test | install; everything else serves those.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
EXTRA   ?= cpu
# The CPU build of torch comes from wherever pip finds this one version; the training extra takes it as it lies.
TORCH   ?= torch==2.13.0
# Building an editable install warns of what is meant to be so.
PIP     := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT     ?= build/demo

.DEFAULT_GOAL := help
.PHONY: help install install-training demo serve test test-training lint bench clean

help:            ## these lines
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(VENV)/.service: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) -e ".[$(EXTRA)]"
	touch $@

$(VENV)/.dev: $(VENV)/.service
	$(PIP) -e ".[$(EXTRA),dev]"
	touch $@

$(VENV)/.training: $(VENV)/.dev
	$(PIP) $(TORCH)
	$(PIP) -e ".[$(EXTRA),dev,training]"
	touch $@

install: $(VENV)/.service  ## make the environment .venv with the command .venv/bin/hepaseg
install-training: $(VENV)/.training  ## add PyTorch and what training needs

demo: install $(if $(REFERENCE),$(if $(CT),,reference-needs-ct))    ## start the service and send it a synthetic CT, or CT=scan.nii.gz [REFERENCE=labels.nii.gz]
ifdef CT
	$(BIN)/hepaseg demo --ct "$(CT)" $(if $(REFERENCE),--reference "$(REFERENCE)") -o "$(OUT)"
else
	$(BIN)/python -m training.phantom "$(OUT)/phantom"
	$(BIN)/hepaseg demo --ct "$(OUT)/phantom/ct.nii.gz" --reference "$(OUT)/phantom/labels.nii.gz" -o "$(OUT)"
endif

.PHONY: reference-needs-ct
reference-needs-ct:
	@echo 'REFERENCE belongs to a scan: make demo CT=scan.nii.gz REFERENCE=labels.nii.gz' >&2; exit 2

serve: install   ## run the service on http://127.0.0.1:8008
	$(BIN)/hepaseg serve

test: $(VENV)/.dev  ## all tests that need no PyTorch
	$(BIN)/python -m pytest -m "not browser"
	$(BIN)/python -m pytest -m browser

test-training: $(VENV)/.training  ## the training tests too
	$(BIN)/python -m pytest -m training

lint: $(VENV)/.dev  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.training  ## speed and memory against a naive pipeline
	$(BIN)/python benchmarks/pipeline.py

clean:           ## remove what was built, not the environment
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
