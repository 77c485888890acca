# Two commands do everything on a new machine:  make demo   and   make test
# Needed beforehand: Python >= 3.10, a Rust toolchain (https://rustup.rs), make, package indexes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST   := Cargo.toml Cargo.lock rust/Cargo.toml $(shell find rust/src -name '*.rs')

.DEFAULT_GOAL := help
.PHONY: help demo study study-all teachers-study quick test lint format docs audit bench growth wheel clean nightly gpu-report gpu-test gpu-bench

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 18

demo: $(VENV)/.built-train  ## Build if needed, then the main job on real data (about 5 minutes from nothing)
	@echo "==> ucmkd demo"
	@$(BIN)/ucmkd demo $(ARGS)

# The questions of study/README.md; the published losses one by one are in study-all.
STUDIES := headline pairs cohorts one_table teachers_part noise_and_views labels_and_senses
MORE_STUDIES := paired published_brca ckd_calls focusing discom_kd amid msd \
  hashing skeletons language coherence nine_kd

study: $(VENV)/.built-train  ## Repeat the main studies of study/ into runs/study (40 to 80 minutes; resumes)
	@for name in $(STUDIES); do \
	  $(BIN)/ucmkd compare $$name --out runs/study/$$name $(ARGS) || exit $$?; done

study-all: study  ## The same and the studies of single published methods
	@for name in $(MORE_STUDIES); do \
	  $(BIN)/ucmkd compare $$name --out runs/study/$$name $(ARGS) || exit $$?; done

teachers-study: $(VENV)/.built-train  ## Which rule picks the right teacher? Into docs/teachers (23 minutes; resumes)
	@$(BIN)/python -m benches.teachers $(ARGS)

quick: $(VENV)/.built-train  ## A reduced study, some minutes
	@$(BIN)/ucmkd compare quick $(ARGS)

test: $(VENV)/.built-test  ## Build if needed, then every Python and Rust test
	@echo "==> Python tests"
	@$(BIN)/python -m pytest $(ARGS)
	@echo "==> Rust tests (without Python)"
	@cargo test --locked --no-default-features

nightly: $(VENV)/.built-test  ## The properties on 100,000 new examples, then an hour of fuzzing
	@echo "==> properties"
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/test_properties_*.py $(ARGS)
	@echo "==> fuzzing"
	@$(BIN)/python -m tests.fuzz --seconds 3600

lint: $(VENV)/.built-test  ## ruff, mypy, cargo fmt, clippy (warnings are errors)
	@echo "==> ruff";   $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "==> mypy";   $(BIN)/mypy
	@echo "==> rustfmt"; cargo fmt --all --check
	@echo "==> clippy"; cargo clippy --locked --all-targets -- -D warnings
	@cargo clippy --locked --all-targets --no-default-features -- -D warnings

format: $(VENV)/.built-test  ## Format Python and Rust
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format . ; cargo fmt --all

docs: $(VENV)/.built-docs  ## Build the documentation strictly into site/
	@$(BIN)/mkdocs build $(ARGS)

audit: $(VENV)/.built-audit  ## Known vulnerabilities in the Python and Rust dependencies
	@echo "==> pip-audit"; $(BIN)/pip-audit --skip-editable --progress-spinner off $(ARGS)
	@echo "==> cargo audit"
	@cargo audit --version >/dev/null 2>&1 || cargo install --locked cargo-audit
	@cargo audit

bench: $(VENV)/.built-bench  ## Time against the peers (installs them)
	@$(BIN)/python -m pytest benches $(ARGS)

growth: $(VENV)/.built-bench  ## Plot how the time grows with n and d (about 7 minutes)
	@$(BIN)/python -m benches.growth $(ARGS)

gpu-report: $(VENV)/.built-test  ## Compile every GPU kernel without a GPU: registers, spills, roofline
	@$(BIN)/python -m benches.gpu.report $(ARGS)

# Wherever PyTorch sees a GPU: the environment of this folder, or python3 with the wheel installed.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

gpu-test:  ## Test the GPU kernels on a CUDA machine (GPU_PYTHON has torch, the wheel, pytest)
	@$(GPU_PYTHON) -c 'import sys, torch, ucmkd; torch.cuda.is_available() or sys.exit("no CUDA device")'
	@$(GPU_PYTHON) -m pytest -rs tests/test_gpu.py tests/test_triton*.py tests/test_gpu_report.py $(ARGS)

gpu-bench:  ## Time the GPU kernels against the peers on a CUDA machine (needs the extra gpu)
	@$(GPU_PYTHON) -m benches.gpu.run $(ARGS)

wheel: $(VENV)/.environment  ## Build sdist and wheel into dist/
	@$(BIN)/maturin build --release --sdist --out dist

clean:  ## Remove everything that was built
	rm -rf $(VENV) target dist python/ucmkd/*.so

# One environment; a stamp for each set of extras, renewed when what it depends on changes.
$(VENV)/.environment:
	@command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python >= 3.10 is needed; set PYTHON=/path/to/python3"; exit 1; }
	@echo "==> creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip 'maturin>=1.12.1,<2'
	@touch $@

$(VENV)/.built-train: EXTRAS = train
$(VENV)/.built-test:  EXTRAS = train,stream,test,lint,docs,examples
$(VENV)/.built-bench: EXTRAS = train,test,bench
$(VENV)/.built-docs:  EXTRAS = train,docs
$(VENV)/.built-audit: EXTRAS = train,stream,audit
$(VENV)/.built-%: $(VENV)/.environment pyproject.toml $(RUST)
	@echo "==> installing ucmkd[$(EXTRAS)] (PyTorch is large: a few minutes the first time) and compiling the Rust kernels"
	@$(BIN)/maturin develop --release --locked --extras $(EXTRAS)
	@touch $@
