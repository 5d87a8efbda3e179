# Two commands: `make train` and `make test`. Each sets up what it needs; running it again costs nothing.
# PYTHON=/path/to/python takes an existing environment (with the dependencies installed) instead of making .venv.
VENV := .venv
BASE ?= python3
ifdef PYTHON
READY :=
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
endif
CLANG_FORMAT = $(PYTHON) -c 'from clang_format import clang_format; clang_format()'

SOURCES := $(foreach folder,. entries cpu cuda,$(foreach ending,h inc cpp cuh cu,$(wildcard csrc/$(folder)/*.$(ending))))
FORMATTED := $(SOURCES) $(wildcard tests/vector_code/*.cpp tests/gpu_emulation/*.h tests/gpu_emulation/*.cuh tests/gpu_emulation/*.cpp)
SANITIZE := address,undefined
SANITIZED := $(foreach room,heatmap_moments landmark_pool gaussian_splat tps_warp resampling,$(foreach kind,backends reference gradients errors,tests/$(room)/test_$(kind).py)) \
  tests/test_direct_calls.py tests/test_instruction_sets.py

.PHONY: help train test lint bench sanitize clean setup
help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## Make the virtual environment and install the package

train: $(READY)  ## Train on the built-in puppets (about 10 minutes); the result is a report.html
	$(PYTHON) -m lmdis_fast.train

test: $(READY)  ## Run ruff, clang-format, mypy and the tests, as CI does
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest

lint: $(READY)  ## Correct what ruff and clang-format can, then check style and types
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .
	$(CLANG_FORMAT) -i $(FORMATTED)
	$(PYTHON) -m mypy

bench: $(READY)  ## Measure operators and the training step
	$(PYTHON) -m bench

# Python itself is not built with sanitizers, so their libraries have to be loaded before it.
sanitize: $(READY)  ## Build with AddressSanitizer and UndefinedBehaviorSanitizer in build/sanitize and run the operator tests there
	LMDIS_FAST_BUILD=cpu LMDIS_FAST_SANITIZE=$(SANITIZE) \
	  $(PYTHON) setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib
	rm -rf build/sanitize/lib/tests && cp -R tests pyproject.toml build/sanitize/lib
	cd build/sanitize/lib && ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so) $$(c++ -print-file-name=libstdc++.so.6)" \
	  $(abspath $(PYTHON)) -m pytest -p no:cacheprovider $(SANITIZED)

clean:  ## Remove the environment, caches and build products (runs stay)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: requirements-lock.txt pyproject.toml setup.py $(SOURCES)
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "lmdis_fast needs Python 3.10 or newer; name one with BASE=/path/to/python3"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null \
	  || echo "No C++ compiler was found: the operators will run on plain PyTorch, which is slower (apt install g++)."
	test -x $(VENV)/bin/python || $(BASE) -m venv $(VENV)
	cmp -s requirements-lock.txt $(VENV)/installed || $(VENV)/bin/python -m pip install -q -r requirements-lock.txt
	cp requirements-lock.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install -q --no-build-isolation --no-deps -e .
	@touch $@
