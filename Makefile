# SPDX-License-Identifier: Apache-2.0
# make demo | disalign | test | test-all | lint | bench | docs: each sets everything up first, in .venv
# (about two minutes, once).
# make PYTHON=python3.11 chooses the interpreter that .venv is made with: 3.10 to 3.13.
# make CONSTRAINTS=FILE installs other versions, see docs/installation.md.
# make hashes, after a version in constraints.txt was changed: needs uv (pip install uv).

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BENCHMARKS ?= region_pooling sem_seg_evaluator class_statistics branch_cost \
	lvis_evaluator lvis_from_roi_masks disalign_stage2 disalign_stage2_sem_seg calibration_cost

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
HASHED := $(PIP) install --quiet --require-hashes --no-deps --no-build-isolation
READY := .venv/.ready
UNFINISHED := .venv/.unfinished

.PHONY: setup demo disalign test test-all lint bench docs hashes

setup: $(READY)

demo: $(READY)
	$(BIN)/longtail quickstart

disalign: $(READY)
	$(BIN)/longtail disalign-quickstart

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# With the stories of three users, tests/stories, the notebooks of tutorials/, and sharded trainings.
test-all: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	@set -e; for name in $(BENCHMARKS); do \
		echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py; \
	done

# Warnings are errors, so are references that lead nowhere. -E: or a second try would not repeat them.
docs: $(READY)
	$(BIN)/python -m sphinx -E -c docs -d build/doctrees -j auto -q -W --keep-going . build/site
	$(BIN)/python tools/check_site.py build/site
	@echo "build/site/docs/index.html"

# What uv keeps of an earlier hash may be that of another version: they are all taken out first.
hashes:
	sed -i '/ --hash=/d; s/ \\$$//' constraints.txt
	uv pip compile --quiet --universal --generate-hashes --no-deps --no-annotate \
		--python-version 3.10 --custom-compile-command "make hashes" \
		constraints.txt --output-file constraints.txt

# Everything has to have a hash that is listed. The build tools come first, so that packages without
# a wheel are built with them (--no-build-isolation) and not with whatever is newest. The folder
# projects is listed for its time stamp: a new project there is a new package. A set-up that was cut
# short starts afresh.
$(READY): $(CONSTRAINTS) setup.py pyproject.toml \
		longtail/commands/install_detectron2.py longtail/utils/detectron2_edits.py $(wildcard projects)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else \
	"error: $(PYTHON) is Python %d.%d; Python 3.10 to 3.13 is needed: make PYTHON=python3.11" % v)'
	@if [ -e $(UNFINISHED) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@rm -f $(READY); touch $(UNFINISHED); echo "Setting up .venv: two minutes, about 3 GB of downloads"
	sed -n '/^\(pip\|setuptools\|wheel\)==/,/[^\\]$$/p' $(CONSTRAINTS) > .venv/build_tools.txt
	$(HASHED) --requirement .venv/build_tools.txt
	$(HASHED) --requirement $(CONSTRAINTS)
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/longtail install-detectron2
	@rm -f $(UNFINISHED); touch $(READY)
