# `make demo` and `make test` are all a new machine needs; both are quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := saved_models/shakespeare-tiny/1

export KERAS_BACKEND = tensorflow

.PHONY: docs docs-version docs-test demo test test-long test-clients test-litertlm test-beam test-mlflow test-cpp-old lint load bench bench-tokenizer bench-training bench-int8 bench-filters \
  bench-speculative bench-recompile bench-first-call bench-batch bench-engine clean help

help:
	@echo "make demo             export the bundled model and continue a prompt with it"
	@echo "make test             run the test suite"
	@echo "make test-long        run the longer proofs too"
	@echo "make test-cpp-old     run exports in C++, with TensorFlow 2.18 too (fetches its wheel)"
	@echo "make test-clients     lm_eval, openai, LangChain, LiteLLM, llm and guidellm against tfgpt2 serve"
	@echo "make test-litertlm    LiteRT-LM's own tools on what tfgpt2 export writes for them"
	@echo "make test-beam        large jobs on Apache Beam"
	@echo "make test-mlflow      the MLflow recipe"
	@echo "make robustness       damaged files, random options and texts: more than the tests try"
	@echo "make lint             check style"
	@echo "make docs             build the docs site into site/"
	@echo "make docs-version     add this version to the branch gh-pages, for the site's version selector"
	@echo "make docs-test        run every Python block of the pages"
	@echo "make load             64 clients on the local server, for a few minutes"
	@echo "make bench            compare with other implementations (ARGS=--short for 5 minutes)"
	@echo "make bench-tokenizer  measure the tokenizer against others"
	@echo "make bench-int8       measure int8 and 16-bit weights against float32"
	@echo "make bench-filters    measure top-k and top-p by bisection against sorting"
	@echo "make bench-training   measure training against others (ARGS=--short for minutes)"
	@echo "make bench-speculative measure speculative decoding with prompt lookup"
	@echo "make bench-recompile  count XLA recompilations when settings change"
	@echo "make bench-batch      measure tfgpt2 batch against the bare decode loop and a loop over generate"
	@echo "make bench-engine     measure the engine of tfgpt2 serve under 64 clients, with and without"
	@echo "make bench-first-call measure imports and the first call, with and without a compilation cache"

demo: $(MODEL)
	@# TensorFlow's start-up notes are shown only when something goes wrong.
	@$(BIN)/python examples/02_run_saved_model.py $(MODEL) 2>$(VENV)/demo.log || { cat $(VENV)/demo.log >&2; exit 1; }
	@echo "Next: . $(VENV)/bin/activate, then tfgpt2 --help"

$(MODEL): | $(VENV)/installed
	@$(BIN)/tfgpt2 export $(MODEL) --model shakespeare-tiny >$(VENV)/export.log
	@echo "The bundled model is exported to $(MODEL) and checked in a clean process. A continuation:"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 -m "not long"
	@echo "The examples of the docstrings:"
	@# The harness' adapter needs lm_eval, which is an extra of its own.
	$(BIN)/python -m pytest -q --doctest-modules tfgpt2 --ignore=tfgpt2/evaluation/harness.py --ignore=tfgpt2/beam

# Programs that no other test needs have environments of their own.
test-clients:
	@test -d .venv-clients || $(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' torch==2.13.0 \
	  'lm_eval[api]==0.4.13' transformers==5.24.0 accelerate openai==3.57.0 langchain-openai==1.7.4 litellm==1.110.2 \
	  llm==0.36 guidellm==0.8.1
	TFGPT2_CLIENTS_PYTHON=$(CURDIR)/.venv-clients/bin/python .venv-clients/bin/python -m pytest \
	  tests/serving/test_real_clients.py tests/evaluation/test_harness.py

test-litertlm: $(VENV)/installed-test
	@test -d .venv-litertlm || $(PYTHON) -m venv .venv-litertlm
	@.venv-litertlm/bin/python -m pip install --quiet --disable-pip-version-check litert-lm==0.18.0
	TFGPT2_LITERTLM_PYTHON=$(CURDIR)/.venv-litertlm/bin/python $(BIN)/python -m pytest tests/litert/test_litert_lm_tools.py

test-beam:
	@test -d .venv-beam || $(PYTHON) -m venv .venv-beam
	@.venv-beam/bin/python -m pip install --quiet --disable-pip-version-check -e '.[beam,test]'
	.venv-beam/bin/python -m pytest tests/batch/test_beam.py

test-mlflow:
	@test -d .venv-mlflow || $(PYTHON) -m venv .venv-mlflow
	@.venv-mlflow/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' mlflow==3.17.2
	.venv-mlflow/bin/python -m pytest tests/batch/test_mlflow.py

test-long: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2

test-cpp-old: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/serving/export/test_cpp.py

# Other seeds than the tests', five times as many cases; ROBUSTNESS=50 looks further.
robustness: $(VENV)/installed-test
	ROBUSTNESS=$${ROBUSTNESS:-5} $(BIN)/python -m pytest tests/robustness
	ROBUSTNESS=$${ROBUSTNESS:-5} $(BIN)/python -m pytest tests/training/test_resume.py tests/batch/test_command.py -k kill

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

load: $(VENV)/installed-test
	$(BIN)/python benchmarks/load.py

bench: $(VENV)/installed-test
	$(BIN)/python benchmarks/compare.py $(ARGS)
	$(if $(ARGS),,-$(BIN)/python benchmarks/tokenizer.py)
	$(if $(ARGS),,$(BIN)/python benchmarks/training.py --short --only tfgpt2 KerasHub)

bench-tokenizer: $(VENV)/installed-test
	$(BIN)/python benchmarks/tokenizer.py
	$(BIN)/python benchmarks/tokenizer_families.py

bench-int8: $(VENV)/installed-test
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/int8.py --quality

bench-filters: $(VENV)/installed-test
	$(BIN)/python benchmarks/filters.py

bench-training: $(VENV)/installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[parity]'
	$(BIN)/python benchmarks/training.py $(ARGS)

bench-speculative: $(VENV)/installed-test
	$(BIN)/python benchmarks/speculative.py $(ARGS)

bench-recompile: $(VENV)/installed-test
	$(BIN)/python benchmarks/recompile.py $(ARGS)

bench-engine: $(VENV)/installed-test
	$(BIN)/python benchmarks/engine.py

bench-batch: $(VENV)/installed-test
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/batch.py --memory 1000000

bench-first-call: $(VENV)/installed-test
	$(BIN)/python benchmarks/first_call.py $(ARGS)

docs: $(VENV)/installed-docs
	$(BIN)/python -m mkdocs build --strict

# A commit on the branch gh-pages; push it to publish. With the selector: mike serve.
docs-version: $(VENV)/installed-docs
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/mike deploy --update-aliases $$($(BIN)/python -c 'import tfgpt2.version as v; print(v.__version__)') latest
	$(BIN)/mike set-default latest

docs-test: $(VENV)/installed-test $(VENV)/installed-docs
	$(BIN)/python -m pytest tests/test_docs.py tests/test_docs_figures.py tests/test_notebooks.py

$(VENV)/installed-docs: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 13); sys.exit(None if ok else f"tfgpt2 needs Python 3.10 to 3.13. Received: {sys.version.split()[0]}. Try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing tfgpt2 into $(VENV) (TensorFlow is large: a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) saved_models/shakespeare-tiny
