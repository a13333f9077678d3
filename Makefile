# make demo    plan DeepSeek-R1 with GPTQ beside RTN (installs on first use)
# make test    the whole test suite
# make check   lint, format, types, generated docs
# make fuzz    inputs that nobody would type, for ten minutes (MINUTES=60 for longer)
# make docs    regenerate what is generated in docs/ and README.md
# make site    the documentation as a site, in build/site
#
# PYTHON=python3.12 chooses the interpreter, VENV=folder the environment.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
JOBS ?= 2
STAMP := $(VENV)/.installed
# The variable: the theme warns of a later MkDocs, which constraints.txt keeps away.
SITE = NO_MKDOCS_2_WARNING=true $(VENV)/bin/mkdocs build --strict --quiet

.PHONY: help demo test check fuzz docs site clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^# make/s/^# //p' Makefile

demo: $(STAMP)
	$(VENV)/bin/planner compare deepseek-r1 --recipe rtn_fp8_dynamic --recipe gptq_w4a16

# The variable, where it is set: the workers, and each command that a test starts, would compile all of planner anew.
test: $(STAMP)
	env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict planner
	$(VENV)/bin/python docs/update.py --check
	$(VENV)/bin/python docs/formulas.py --check
	$(SITE) --site-dir build/site

fuzz: $(STAMP)
	$(VENV)/bin/python -m tests.fuzz --minutes $(or $(MINUTES),10)

docs: $(STAMP)
	$(VENV)/bin/python docs/update.py
	$(VENV)/bin/python docs/formulas.py

site: $(STAMP)
	$(SITE) --site-dir build/site

clean:
	rm -rf .venv

# torch first and alone: pip's default build of the pinned version is the CPU one. Asked for together
# with everything else, another version could be chosen, with gigabytes of CUDA libraries.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "planner needs Python 3.11 or newer; none was found. On Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing into $(VENV), which takes a few minutes the first time" >&2
	$(VENV)/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@
