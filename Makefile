# Everything a developer runs. `make demo` and `make test` set up .venv by themselves.
.PHONY: demo sim test soak interop bench bench-quick check sabotage pages lock clean help
PAGES := coverage immunity sabotage states
.DEFAULT_GOAL := help
BIN := .venv/bin

help:            ## this list
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' Makefile

demo: core       ## a Lightning network on this machine: channels, payments, closes, the books
	@$(BIN)/salama demo $(ARGS)

sim: core        ## whole networks in one process, everything breaks (make sim SEEDS=1..500 [ARGS=--large])
	@$(BIN)/python -m salama.sim $(or $(SEEDS),1..20) $(ARGS)

test: dev        ## all tests, within five minutes
	@$(BIN)/pytest -n 2 $(ARGS)

soak: dev        ## the full counts
	@$(BIN)/pytest -m slow -n 2 $(ARGS)

interop: dev     ## against LDK and a real bitcoind (scripts/interop_setup installs them)
	@$(BIN)/pytest -m interop -n 2 tests/interop $(ARGS)

bench: dev       ## how fast it is: docs/benchmarks.md and bench/results.json
	@$(BIN)/python -m bench $(ARGS)

bench-quick: dev ## the same in about a minute, with fewer payments
	@$(BIN)/python -m bench --quick $(ARGS)

check: dev       ## format, lint, types, import contract, fresh pages, deliberate faults that still apply
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@scripts/check_hosts
	@$(BIN)/python -m tests.sabotage.run --check
	@for page in $(PAGES); do $(BIN)/python scripts/$${page}_page.py --check || exit 1; done

sabotage: dev    ## every deliberate fault must turn a test red
	@$(BIN)/python -m tests.sabotage.run $(ARGS)

pages: dev       ## write the pages that are made from the code: what is covered, immune, sabotaged; the states
	@for page in $(PAGES); do $(BIN)/python scripts/$${page}_page.py || exit 1; done

lock: dev        ## renew the lock files
	@$(BIN)/python -m pip install --quiet uv
	@for k in core test; do \
	  o=requirements.lock; e=""; [ $$k = test ] && { o=requirements-test.lock; e="--extra test"; }; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --extra build $$e pyproject.toml -o $$o; done

clean:           ## remove what was made here
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: core dev
core:
	@scripts/setup core
dev:
	@scripts/setup test
