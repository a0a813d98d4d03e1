# Two commands do all the set-up on a fresh Debian or Ubuntu machine: `make demo` and `make test`.
# As root missing system packages are installed; otherwise what is missing is named and skipped.

# What a shell may carry from other work must not reach ours.
unexport PYTHONPATH FASTLAYER_BACKEND FASTLAYER_NO_OPENAT2 SOURCE_DATE_EPOCH

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PYTEST = $(PY) -m pytest -q -p no:cacheprovider
JOBS ?= 2
ASAN = build/asan

.PHONY: help demo test build lint types unit fallback integration asan fuzz wheel bench clean

help:
	@echo "make demo    build, make two real trees, diff them, apply the layer, compare with plain Python"
	@echo "make test    everything CI runs: lint, types, tests on both backends, judges, sanitizers, wheel"
	@echo "make bench   the benchmarks (long; as root on Debian); results go to bench/results"
	@echo "make unit | fallback | integration | asan | fuzz | lint | types | wheel | clean"

$(VENV)/.ready: pyproject.toml setup.py .ci/system
	bash .ci/system base
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip setuptools wheel cython
	$(PY) -m pip install --quiet -e ".[test,bench,dev]"
	touch $@ $(VENV)/.built

# An editable install finds changed sources through this.
build: $(VENV)/.built
$(VENV)/.built: $(VENV)/.ready $(wildcard csrc/*.[ch] src/fastlayer/_native/*.py[xd])
	$(PY) setup.py --quiet build_clib build_ext --inplace
	touch $@

demo: build
	$(PY) bench/demo.py

test: lint types unit fallback integration fuzz asan wheel
	@echo "make test: all tiers passed"

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: build
	$(VENV)/bin/mypy

unit: build
	$(PYTEST) -n $(JOBS) tests/unit tests/property

# The same containment rules with the openat2 fast path switched off.
fallback: build
	FASTLAYER_NO_OPENAT2=1 $(PYTEST) -n $(JOBS) tests/unit/test_extract*.py tests/unit/test_containment.py \
	  tests/unit/test_layer_rules.py tests/unit/test_copy_up.py tests/unit/test_clone.py tests/unit/test_apply_api.py \
	  tests/unit/test_deep_paths.py tests/unit/test_encode.py tests/unit/test_upper.py tests/property

integration: build
	bash .ci/system peers
	$(PYTEST) tests/integration

fuzz: build
	bash .ci/system fuzz
	$(PYTEST) tests/fuzz

# AddressSanitizer and UndefinedBehaviorSanitizer under the Python tests (native backend).
asan: build
	rm -rf $(ASAN) && mkdir -p $(ASAN)
	cp -r csrc src setup.py pyproject.toml README.md LICENSE $(ASAN)/
	find $(ASAN)/src -name '*.so' -delete
	cd $(ASAN) && FASTLAYER_SANITIZE=address,undefined $(abspath $(PY)) setup.py --quiet build_clib build_ext --inplace
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=$(ASAN)/src \
	  FASTLAYER_EXPECT_SOURCE=$(abspath $(ASAN)) $(PYTEST) -n $(JOBS) -k "not baseline" tests/unit tests/property

# An sdist, the wheel that is made from it, repaired, in a clean environment, tested from outside the checkout.
wheel: build
	rm -rf build/wheel && mkdir -p build/wheel/raw
	$(PY) -m build --outdir build/wheel/raw .
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair -w build/wheel build/wheel/raw/*.whl
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build/wheel/fastlayer-*.whl pytest pytest-timeout pytest-xdist hypothesis
	$(PY) .ci/check_wheel.py build/wheel/fastlayer-*.whl build/wheel/raw/fastlayer-*.tar.gz
	cp -r tests docs build/wheel/ && cp pyproject.toml build/wheel/
	cd build/wheel && env -u PYTHONPATH FASTLAYER_EXPECT_SOURCE=$(abspath build/wheel/venv) venv/bin/python -m pytest -q \
	  -p no:cacheprovider -n $(JOBS) tests/unit

bench: build
	bash .ci/system peers
	bash .ci/system bench
	$(PY) -m bench

clean:
	rm -rf build .venv src/fastlayer/_native/*.so src/fastlayer/_native/*.c src/*.egg-info
