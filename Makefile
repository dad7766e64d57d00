# make train [ARGS="latent_dim=2 experiment=manifold"] | test | check | lock
.PHONY: train test check lock
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin

train: .venv/ready
	@$(BIN)/python train.py $(ARGS)

test: .venv/ready
	@$(BIN)/python -m pytest $(ARGS)

check: .venv/ready
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

# The stamp is written last, so a set-up that was interrupted, or is older than the pins, is done again.
.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@rm -f $@; test -x $(BIN)/python || { rm -rf .venv; $(PYTHON) -m venv .venv; }
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@PATH="$$PATH:$(CURDIR)/$(BIN)"; export PATH VIRTUAL_ENV="$(CURDIR)/.venv"; \
	  uv pip sync --compile-bytecode requirements.txt && uv pip install --no-deps --editable .
	@touch $@

lock:
	@PATH="$$PATH:$(CURDIR)/$(BIN)" UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --extra dev \
	  --universal --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links --upgrade --quiet -o requirements.txt
