# make install | make train [ARGS="latent_dim=2"] | make test | make test-all | make check | make docs |
# make results [BUDGET=full] | make bench | make bench-parts | make lock
.PHONY: install train test test-all check docs results bench bench-parts lock

PYTHON ?= python3
BUDGET ?= cpu
BIN := .venv/bin
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
# uv from the PATH, or else from .venv.
UV := PATH="$$PATH:$(CURDIR)/$(BIN)" VIRTUAL_ENV="$(CURDIR)/.venv" uv

install: .venv/ready

train: .venv/ready
	@$(BIN)/python train.py $(ARGS)

# Three processes of one thread each, for two cores: the models of the tests are small, and some tests wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

test: .venv/ready
	@$(PYTEST) -m "not slow and not browser" $(ARGS)

test-all: .venv/ready
	@$(PYTEST) $(ARGS)

check: .venv/ready
	@$(BIN)/python -m ruff format --check . && $(BIN)/python -m ruff check . && $(BIN)/python -m mypy && $(BIN)/lint-imports
	@$(MKDOCS)

# Build the website in site/. The build fails if a link or a reference is dead.
docs: .venv/ready
	@$(MKDOCS)

results: .venv/ready
	@$(BIN)/python benchmarks/results.py $(BUDGET)

# train.py beside other programs; its steps and its estimator.
bench: .venv/ready .venv-bench/ready
	@$(BIN)/python benchmarks/step_budget.py
	@$(BIN)/python benchmarks/speed.py "$(CURDIR)/.venv-bench/bin/python"

# The start, and the cost of each part and of each size, which takes longer.
bench-parts: .venv/ready
	@$(BIN)/python benchmarks/startup.py
	@$(BIN)/python benchmarks/batched_models.py
	@$(BIN)/python benchmarks/scaling.py
	@$(BIN)/python benchmarks/costs.py

# The other libraries of the benchmark, in their own environment.
.venv-bench/ready: requirements.txt benchmarks/requirements.txt | .venv/ready
	@rm -rf .venv-bench && $(UV) venv --quiet --python $(BIN)/python .venv-bench
	@VIRTUAL_ENV="$(CURDIR)/.venv-bench" PATH="$$PATH:$(CURDIR)/$(BIN)" uv pip install --quiet --compile-bytecode \
	  -r requirements.txt -r benchmarks/requirements.txt
	@touch $@

# The stamp is removed first and written last, so an interrupted set-up starts again; it is updated if the pins changed.
.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % v[:2])'
	@if test -e $@ && $(UV) --version >/dev/null 2>&1; then rm $@; else rm -rf .venv; fi
	@test -d .venv || if command -v uv >/dev/null; then uv venv --quiet --python $(PYTHON) .venv; \
	  else $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; fi
	@$(UV) pip sync --quiet --compile-bytecode requirements.txt
	@$(UV) pip install --quiet --no-deps --editable .
	@touch $@

lock: .venv/ready
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --upgrade --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.txt
