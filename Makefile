# Every target that needs the environment makes .venv first, when it is missing or older than what it was made from.
# The stamp is written last, so a set-up that was cut short does not count.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
STAMP := .venv/.installed

unexport PYTHONHOME
unexport PYTHONPATH
.DEFAULT_GOAL := help
.PHONY: help run test figures explore bench notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: $(STAMP) ## execute all notebooks live at the quick scale, into runs/ and figures/quick/
	@$(VENV_PYTHON) -m esr_utils.run_notebooks

test: export OMP_NUM_THREADS := 1
test: $(STAMP) ## run the tests on the CPU, in two processes
	@$(VENV_PYTHON) -m pytest -n 2 --dist worksteal

figures: $(STAMP) ## redraw the figures from committed results, without a model
	@$(VENV_PYTHON) -m esr_utils.plots

explore: $(STAMP) ## open JupyterLab on the latent explorer; with APP=1 the explorer alone, as an app
ifeq ($(APP),1)
	@$(VENV_PYTHON) -m esr_utils.explorer.serve
else
	@$(VENV_PYTHON) -m jupyterlab notebooks/00_latent_explorer.ipynb
endif

bench: $(STAMP) ## measure the speed of the engines on this machine
	@$(VENV_PYTHON) -m esr_utils.bench

notebooks: $(STAMP) ## write the published notebooks again, from their scripts and the committed results
	@cd notebooks && for script in [0-9]*.py; do \
		../$(VENV_PYTHON) -m jupytext --quiet --update --to ipynb "$$script" && \
		JUPYTER_PLATFORM_DIRS=1 HF_HUB_OFFLINE=1 ../$(VENV_PYTHON) -m nbconvert --log-level WARN \
			--to notebook --execute --inplace "$${script%.py}.ipynb" || exit 1; done

clean: ## remove .venv, runs/, figures/quick/ and caches in this folder; the model's cache stays
	@rm -rf .venv runs figures/quick figures/interactive figures/*.svg figures/*.pdf build *.egg-info .pytest_cache .ruff_cache
	@find . -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "there is no program $(PYTHON) here; name a Python from 3.11 to 3.13, for example: make run PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -I esr_utils/install.py
