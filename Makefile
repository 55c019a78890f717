# What people run and what CI runs are the same targets. Each sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

# Engines share the machine with their clients; on few cores a second thread pool only gets in the way.
export HF_HUB_OFFLINE ?= 1

.PHONY: demo check test test-formulas bench docs chromium node-client lock install install-dev clean

demo: install  ## serve and judge the demo checkpoints, end to end
	$(BIN)/vlmserve demo tour --out demo-out

check: install-dev  ## lint, format, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install-dev chromium node-client  ## every test; a tier that cannot run is a failure
	VLMSERVE_REQUIRE=engine,compose,browser,node $(BIN)/pytest

test-formulas: install-dev  ## the token formulas against ten times as many sizes
	VLMSERVE_FORMULA_SIZES=2000 $(BIN)/pytest tests/unit/checkpoint/test_visual_tokens.py

bench: install-dev chromium  ## the benchmarks whose numbers are in benchmarks/README.md
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/serve_overhead.py
	$(BIN)/python benchmarks/decode_overhead.py
	$(BIN)/python benchmarks/check_speed.py
	$(BIN)/python benchmarks/html_report.py
	$(BIN)/python benchmarks/eval_speed.py
	$(BIN)/python benchmarks/zoo_verdicts.py

docs: install-dev  ## docs/checks.md: what the checks say, and what mutations trip
	$(BIN)/python -m scripts.render_checks

playground-picture: install-dev chromium  ## docs/playground.png, from a real server in a browser
	$(BIN)/python scripts/render_playground.py

install:
	@$(PYTHON) scripts/bootstrap.py cpu

install-dev:
	@$(PYTHON) scripts/bootstrap.py dev

chromium:  ## the browser of the tests, where there is none
	@$(PYTHON) scripts/install_chromium.py

node-client:  ## OpenAI's JavaScript client of the tests, where it is missing
	@$(PYTHON) scripts/install_node_client.py

lock: install  ## pin again what pyproject.toml asks for
	$(PYTHON) scripts/lock.py

clean:
	rm -rf .venv demo-out dist build
