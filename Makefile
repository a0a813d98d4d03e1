# Two commands do all the set-up on a fresh Debian or Ubuntu machine: `make demo` and `make test`.
# As root missing system packages are installed; otherwise what is missing is named and skipped.

# What a shell may carry from other work must not reach ours. Without bytecode each command would compile its sources.
unexport PYTHONPATH FASTLAYER_BACKEND FASTLAYER_NO_OPENAT2 SOURCE_DATE_EPOCH PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PYTEST = $(PY) -m pytest -q -p no:cacheprovider
JOBS ?= 2
ASAN = build/asan

.PHONY: help demo test build peers lint types unit fallback integration asan fuzz wheel bench clean

help:
	@echo "make demo    two real trees: diff, layer, apply, plain Python beside it; an image of an application, built and rebuilt"
	@echo "make test    everything CI runs: lint, types, tests on both backends, judges, sanitizers, wheel"
	@echo "make bench   the benchmarks (long; as root on Debian); results go to bench/results"
	@echo "make unit | fallback | integration | asan | fuzz | lint | types | wheel | clean"

$(VENV)/.ready: pyproject.toml setup.py .ci/system
	bash .ci/system base
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip setuptools wheel cython
	$(PY) -m pip install --quiet -e ".[test,bench,dev]"
	touch $@ $(VENV)/.built

# An editable install finds changed sources through this. What the install has built just now is not built again.
build: $(VENV)/.built
$(VENV)/.built: $(VENV)/.ready $(wildcard csrc/*.[ch] src/fastlayer/_native/*.py[xd])
	if [ ! -e $@ ] || [ -n "$$(find csrc setup.py src/fastlayer/_native -name '*.[chp]*' -newer $@ -print -quit)" ]; then \
	  $(PY) setup.py --quiet build_clib build_ext --inplace -j $(JOBS); fi
	touch $@

demo: build
	$(PY) -m bench.demo

test: lint types unit fallback integration fuzz asan wheel
	@echo "make test: all tiers passed"

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: build
	$(VENV)/bin/mypy

# The file systems, judges and runtimes that tests use; on CI a missing one is a failure.
peers:
	bash .ci/system peers

unit: build peers
	$(PYTEST) -n $(JOBS) tests/unit tests/property

# The same containment rules with the openat2 fast path switched off.
fallback: build peers
	FASTLAYER_NO_OPENAT2=1 $(PYTEST) -n $(JOBS) tests/unit/test_extract*.py tests/unit/test_containment.py \
	  tests/unit/test_layer_rules.py tests/unit/test_copy_up.py tests/unit/test_clone*.py tests/unit/test_apply_api.py \
	  tests/unit/test_deep_paths.py tests/unit/test_encode.py tests/unit/test_upper.py \
	  $(patsubst %,tests/property/test_%.py,extract_differential placing roundtrip unprivileged upper upper_layers)

# A file of tests stays in one process, which mounts for itself (tests/namespace.py). Much of it is waiting for others.
integration: build peers
	$(PYTEST) -n $$(($(JOBS) + 1)) --dist loadfile --no-loadscope-reorder tests/integration

fuzz: build
	bash .ci/system fuzz
	$(PYTEST) tests/fuzz

# AddressSanitizer and UndefinedBehaviorSanitizer under the Python tests (native backend). Left out are the files that do
# not enter the native code, or by commands alone: names, documents, Dockerfiles, types, what listings show.
NOT_NATIVE = $(patsubst %,--ignore=tests/unit/test_%.py,architecture arguments attach baseline_tar baseline_tree \
  build_agents build_effects build_explain build_graph build_leave build_limits build_progress cache_limits cache_options \
  cache_records cdi checked cli_filters cli_login cli_store cli_transfers config_changes container_logs devicemapper \
  dockerfile dockerfile_corpus dockerfile_shell dockerignore driver_protocol layer_rules_index lean lint manifests \
  mount_options oci output_options platform proxy pull_leftovers pull_spoilt record_cost reference running_bundles \
  running_values seccomp seccomp_profiles store_messages templates temporary transfer_indexes typing volume_drivers \
  volume_plugins $(patsubst tests/unit/test_%.py,%,$(wildcard tests/unit/test_registry_*.py))) \
  $(patsubst %,--ignore=tests/property/test_%.py,command_line registry_answers)
asan: build peers
	rm -rf $(ASAN) && mkdir -p $(ASAN)
	cp -r csrc src setup.py pyproject.toml README.md LICENSE $(ASAN)/
	find $(ASAN)/src -name '*.so' -delete
	cd $(ASAN) && FASTLAYER_SANITIZE=address,undefined $(abspath $(PY)) setup.py --quiet build_clib build_ext --inplace -j $(JOBS)
	LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=$(abspath $(ASAN)/src) \
	  FASTLAYER_EXPECT_SOURCE=$(abspath $(ASAN)) $(PYTEST) -n $(JOBS) -k "not baseline" $(NOT_NATIVE) tests/unit tests/property

# An sdist, the wheel that is made from it, repaired, in a clean environment, tested from outside the checkout. Its Python
# files are the checkout's, byte for byte (check_wheel), and tested as such: what is new here are the binaries, the imports
# with what pip has installed, and the command.
WHEEL_TESTS = $(patsubst %,tests/unit/test_%.py,public_api cli access_times apply_api changes chunk clone compression \
  containment copy_up copying_engine diff_api encode extract hashing layer_rules mounts placing running_guests scan \
  tarread upper usage)
wheel: build peers
	rm -rf build/wheel && mkdir -p build/wheel/raw
	$(PY) -m build --outdir build/wheel/raw .
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair -w build/wheel build/wheel/raw/*.whl
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build/wheel/fastlayer-*.whl pytest pytest-timeout pytest-xdist hypothesis
	$(PY) .ci/check_wheel.py build/wheel/fastlayer-*.whl build/wheel/raw/fastlayer-*.tar.gz
	cp -r tests docs build/wheel/ && cp pyproject.toml build/wheel/
	cd build/wheel && venv/bin/fastlayer --version
	cd build/wheel && env -u PYTHONPATH FASTLAYER_EXPECT_SOURCE=$(abspath build/wheel/venv) venv/bin/python -m pytest -q \
	  -p no:cacheprovider -n $(JOBS) -k "not baseline" $(WHEEL_TESTS)

bench: build peers
	bash .ci/system bench
	$(PY) -m bench

clean:
	rm -rf build .venv src/fastlayer/_native/*.so src/fastlayer/_native/*.c src/*.egg-info
