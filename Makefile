# The targets that people use. Everything happens in .venv; a step is done again when pyproject.toml has changed.

PYTHON ?= python3
MODEL ?= resnet50
FUZZ_SECONDS ?= 600
# Processes that run tests: a number, 0 for pytest alone, or auto, one a core up to so many.
TEST_WORKERS ?= auto
MOST_WORKERS := 8
RECORD_THREADS ?= 1,2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# torchvision and timm ask for a torch of their own choice; the one that pyproject.toml names is kept.
TORCHVISION := torchvision==0.28.0
TIMM := timm==1.0.31

# The other end of Triton's range in pyproject.toml, in an environment of its own: its interpreter wants an older NumPy.
OLDEST := .venv-oldest
OLDEST_TRITON := 'triton==3.6.0' 'numpy<2.4'

# The networks that are compared, and where the records of it are.
NETWORKS := resnet18 resnet50 squeezenet1_0 mobilenet_v2 vgg16 convnext_tiny efficientnet_b0
RECORDS := benchmarks/records

# Debian's names of the browser that the tests of pages are run in.
BROWSER := chromium chromium-driver

.DEFAULT_GOAL := help
.PHONY: help run test lint browser fuzz gpu triton networks bench records format docs clean

help:
	@echo "make run       compile a network, run it on a photograph, check it, compare it (MODEL=$(MODEL))"
	@echo "make test      all checks and tests (TEST_WORKERS=$(TEST_WORKERS))"
	@echo "make fuzz      the property tests with new examples, each file for FUZZ_SECONDS=$(FUZZ_SECONDS)"
	@echo "make gpu       all tests of GPU kernels, and all of these compiled ahead of time in all precisions"
	@echo "make triton    the tests of GPU kernels with the oldest Triton that is served"
	@echo "make networks  every network of torchvision and timm, which takes long"
	@echo "make bench     latency beside other engines"
	@echo "make records   every figure of docs/results.md, measured and added to $(RECORDS), which takes hours"
	@echo "make format    format the sources"
	@echo "make docs      write the generated pages and figures of docs/, and the README's table"
	@echo "make clean     remove everything that was made"

run: $(VENV)/run.stamp
	@$(BIN)/waterline run $(MODEL) --profile

test: lint browser
	@$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --maxprocesses $(MOST_WORKERS) --dist worksteal

# The tests of pages open them in Chromium. It is installed where that is possible; without it those tests are skipped.
browser:
	@if command -v chromedriver >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing $(BROWSER) with apt-get, for the tests of pages ..."; \
		{ apt-get update && apt-get install -y --no-install-recommends $(BROWSER); } >/dev/null 2>&1 </dev/null \
			|| echo "... which failed: the tests of pages in a browser will be skipped"; \
	else echo "there is no chromedriver: the tests of pages in a browser will be skipped"; \
	fi

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fuzz: $(VENV)/test.stamp
	@WATERLINE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -k fuzz --timeout=0

gpu: $(VENV)/test.stamp
	@WATERLINE_TEST_PRECISIONS=bf16,f16,tf32,f32 $(BIN)/python -m pytest tests/algorithms -k gpu \
		--numprocesses $(TEST_WORKERS) --maxprocesses $(MOST_WORKERS) --dist worksteal

triton: $(OLDEST)/test.stamp
	@WATERLINE_TEST_PRECISIONS=bf16 $(OLDEST)/bin/python -m pytest -k gpu --numprocesses $(TEST_WORKERS) --maxprocesses $(MOST_WORKERS) --dist worksteal

networks: $(VENV)/test.stamp
	@$(BIN)/python -m pytest -m slow tests/networks --timeout=0

bench: $(VENV)/test.stamp
	@$(BIN)/waterline bench $(NETWORKS) --vs onnxruntime,openvino,ncnn

# The commands of the table in docs/benchmarking.md, in its order.
records: $(VENV)/test.stamp
	@mkdir -p $(RECORDS)
	$(BIN)/waterline bench $(NETWORKS) --vs onnxruntime,openvino,ncnn --threads $(RECORD_THREADS) --seconds 10 \
		--append $(RECORDS)/networks.jsonl
	$(BIN)/waterline bench --conv benchmarks/layers/resnet50.txt --algorithm indirect,direct_gemm --vs onnxruntime \
		--threads 1 --append $(RECORDS)/layers.jsonl
	$(BIN)/waterline bench --conv benchmarks/layers/grouped.txt --algorithm grouped --vs onnxruntime \
		--threads $(RECORD_THREADS) --append $(RECORDS)/layers.jsonl
	$(BIN)/waterline bench --conv benchmarks/layers/winograd_networks.txt --vs onnxruntime,openvino,ncnn --threads 1 \
		--append $(RECORDS)/layers.jsonl
	$(BIN)/waterline bench --conv benchmarks/layers/fft.txt --vs onnxruntime --threads 1 \
		--append $(RECORDS)/layers.jsonl
	$(BIN)/python -m waterline.bench.overhead --vs onnxruntime --threads $(RECORD_THREADS) \
		--append $(RECORDS)/overhead.jsonl
	$(BIN)/python -m waterline.bench.startup resnet50 --vs onnxruntime --append $(RECORDS)/startup.jsonl
	$(BIN)/python -m waterline.bench.accuracy $(NETWORKS) --append $(RECORDS)/accuracy.jsonl
	$(BIN)/python -m waterline.bench.tuned $(NETWORKS) --threads $(RECORD_THREADS) --tune-seconds 15 --seconds 5 \
		--append $(RECORDS)/tuning.jsonl
	$(BIN)/waterline experiment efficiency --threads $(RECORD_THREADS) --seconds 30 --json $(RECORDS)/efficiency.jsonl
	$(BIN)/waterline experiment fusion --threads $(RECORD_THREADS) --seconds 20 --json $(RECORDS)/fusion.jsonl
	$(BIN)/waterline experiment indirect --threads 1 --seconds 1 --warm --json $(RECORDS)/indirect.jsonl
	$(BIN)/waterline experiment maxdnn --threads 1 --seconds 2 --json $(RECORDS)/maxdnn.jsonl
	$(BIN)/waterline experiment winograd --seconds 10 --json $(RECORDS)/winograd.jsonl
	$(BIN)/waterline experiment training --accuracy-only --threads 1 --json $(RECORDS)/training.jsonl
	$(BIN)/waterline experiment training --speed-only --threads $(RECORD_THREADS) --seconds 6 \
		--json $(RECORDS)/training.jsonl

format: $(VENV)/test.stamp
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: $(VENV)/test.stamp
	@$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) $(OLDEST) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Waterline needs Python 3.11 or newer: make PYTHON=python3.x")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(PIP) --editable '.[run]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml $(VENV)/run.stamp | $(BIN)/python
	@echo "installing what the tests need into $(VENV) ..."
	@$(PIP) --editable '.[test,dev]'
	@$(PIP) --no-deps $(TORCHVISION) $(TIMM)
	@touch $@

$(OLDEST)/test.stamp: pyproject.toml
	@$(PYTHON) -m venv $(OLDEST)
	@echo "installing what the tests need with $(OLDEST_TRITON) into $(OLDEST) ..."
	@$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[test]' $(OLDEST_TRITON)
	@touch $@
