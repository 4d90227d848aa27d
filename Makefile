# Everything a reader or a contributor does here. `make` alone prints what there is.
# Set-up happens by itself, once, and again only when pyproject.toml or constraints.txt changes.

PYTHON    ?= python3
VENV      ?= .venv
PIP_FLAGS ?=
WORKERS   ?= 2
LAB_FLAGS ?=
BROWSER   ?=
SITE      := docs/_build/html

BIN := $(VENV)/bin
comma := ,
AGAIN = $(MAKE) --no-print-directory
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q $(PIP_FLAGS) -c constraints.txt
# One thread to a process: two workers with two threads each, on two cores, are many times slower than with one each.
ENV := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# $(call setup,NAME,EXTRAS): install the project with EXTRAS unless the stamp NAME holds today's requirements.
# torch comes first and alone, so that a build for the CPU that is already at hand is taken as it is.
define install
cat pyproject.toml constraints.txt | cmp -s - $(VENV)/hettrans-$(1).stamp || { \
	  echo "Installing hettrans[$(2)] into $(VENV) (a few minutes, once)" && \
	  $(PIP) torch && $(PIP) -e '.[$(2)]' && \
	  cat pyproject.toml constraints.txt > $(VENV)/hettrans-$(1).stamp; }
endef
define setup
	@$(call install,$(1),$(2))
endef

.PHONY: help quickstart test lab docs docs-serve notebooks clean venv core dev check-export check-clean check-tests check-notebooks check-browser fresh-site

.NOTPARALLEL:

help:
	@echo "hettrans: recommendation with heterogeneous transformers, taught in notebooks"
	@echo
	@echo "  make quickstart   train HeterRec and HoMer on built-in shops, compare them with simpler models, recommend, rank a page"
	@echo "  make lab          open the first notebook in JupyterLab"
	@echo "  make test         everything that CI runs: notebooks exported? notebooks clean? pytest, every notebook, and the site and JupyterLab in a browser"
	@echo
	@echo "  make notebooks    run every notebook again, store its outputs, clean it, export it (NB=path for one)"
	@echo "  make docs         build the site from the notebooks into $(SITE)"
	@echo "  make docs-serve   build it and show it at http://127.0.0.1:8000"
	@echo "  make clean        remove what building and testing leave behind ($(VENV) and runs/ stay)"
	@echo
	@echo "Each makes $(VENV) first when it is not there. Variables: PYTHON=python3.12 (3.11 or later), VENV=.venv, WORKERS=2,"
	@echo "LAB_FLAGS=... (handed to JupyterLab), PIP_FLAGS=... (handed to pip: on Linux the plain torch brings CUDA with it)."
	@echo "The browser is a Chromium: one that is installed, or CHROME=path; as root on Debian or Ubuntu apt-get installs it; BROWSER=no leaves that part out."
	@echo "While one notebook is being written: make notebooks NB=nbs/2_attention/10_attention.ipynb && make check-notebooks NB=..."

quickstart: core
	$(BIN)/hettrans quickstart

test: check-export check-clean check-tests check-notebooks check-browser
	@echo "All checks passed."

check-export: dev
	@echo "== the library is what the notebooks export"
	@$(BIN)/python tools/check_fresh.py export

check-clean: dev
	@echo "== the notebooks are clean"
	@$(BIN)/python tools/check_fresh.py clean

check-tests: dev
	@echo "== pytest"
	$(ENV) $(BIN)/python -m pytest -q tests --ignore=tests/lab

NB ?=
check-notebooks: dev
	@echo "== the notebooks give the outputs that they show"
	$(ENV) $(BIN)/python -m pytest -q --nbval $(if $(NB),$(NB),nbs/ -n $(WORKERS) --dist loadscope)

# The site and JupyterLab, driven by a Chromium. Without one, or without what drives it, the reason is said and nothing fails.
check-browser: dev
	@echo "== the site and JupyterLab in a browser"
	@if [ "$(BROWSER)" = no ]; then echo "Skipped: BROWSER=no"; \
	elif ! $(BIN)/python tests/lab/browser.py --install >/dev/null; then echo "Skipped: there is no browser"; \
	elif ! { { $(call install,browser,dev$(comma)docs$(comma)browser); } && cp $(VENV)/hettrans-browser.stamp $(VENV)/hettrans-docs.stamp; }; then echo "Skipped: playwright, or what builds the site, could not be installed"; \
	else $(AGAIN) fresh-site && { $(ENV) $(BIN)/python -m pytest -q -rs tests/lab -n $(WORKERS) --dist loadfile || { echo "What failed, once more and alone: a loaded machine can be too slow for a browser" && $(ENV) $(BIN)/python -m pytest -q -rs tests/lab --lf --lfnf=none; }; }; fi

# The site, unless it is newer than everything that it is built from.
fresh-site:
	@if [ -f $(SITE)/.built ] && [ -z "$$(find nbs docs hettrans benchmarks tools \( -name '.?*' -o -name _build -o -name _nbs -o -name vendor -o -name __pycache__ \) -prune -o -type f -newer $(SITE)/.built -print | head -n 1)" ]; \
	then echo "The site is newer than all that it is built from"; else $(AGAIN) docs; fi

notebooks: dev
	$(ENV) $(BIN)/nbdev-export
	$(ENV) $(BIN)/python tools/run_nbs.py $(NB)
	$(BIN)/nbdev-clean $(if $(NB),--fname $(NB))
	@echo "Ran, cleaned and exported. Look at \`git diff nbs\` before you commit."

lab: dev
	@echo "Opening JupyterLab; Ctrl-C here ends it. Figures show at once, widgets when their cell is run."
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/nbs/0_start/00_quickstart.ipynb $(LAB_FLAGS)

docs: venv
	$(call setup,docs,docs)
	$(BIN)/python docs/prep.py
	$(BIN)/sphinx-build -q -W --keep-going -b html docs $(SITE)
	@touch $(SITE)/.built
	@echo "Open $(SITE)/index.html, or: make docs-serve"

docs-serve: docs
	@echo "http://127.0.0.1:8000 ; Ctrl-C here ends it."
	cd $(SITE) && $(abspath $(BIN))/python -m http.server 8000 --bind 127.0.0.1

venv:
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "hettrans needs Python 3.11 or later; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	  echo "Making $(VENV)" && $(PYTHON) -m venv $(VENV) || { \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }; }

core: venv
	$(call setup,core,index)

dev: venv
	$(call setup,dev,dev)

clean:
	rm -rf build dist *.egg-info docs/_build docs/_nbs docs/_static/vendor .pytest_cache .hypothesis
	find hettrans nbs tests tools docs \( -name __pycache__ -o -name .ipynb_checkpoints -o -name .pytest_cache \) -type d -prune -exec rm -rf {} +
