# Each target does its own set-up: it needs python3 (3.11) and make, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test nightly lint lock container-check clean

demo: $(READY)  ## real digits become a published, calibrated index that answers a query
	$(BIN)/simpipe run --config configs/digits.yaml
	$(BIN)/simpipe match --config configs/digits.yaml --id digits-00008

test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile

nightly: $(READY)  ## longer: ten times as many sequences of changes, re-indexes, rollbacks, prunes and kills, and damages
	SIMPIPE_NIGHTLY=1 $(BIN)/python -m pytest tests/test_reindex_model.py tests/test_fsck_fuzz.py

lint: $(READY)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

lock: $(READY)  ## writes requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra gcp --extra tfds --extra faiss --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements.lock

container-check: $(READY)  ## proves the image's installation without a container; some minutes
	$(BIN)/python scripts/container_check.py

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "simpipe needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	$(PIP) --require-hashes --no-deps -r $(VENV)/uv.txt
	# A third of pip's time; pip does the same where uv finds no package index. Compiled once: each import of TensorFlow from source
	# takes 8 s of CPU more, at every start where Python may not write its bytecode.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-deps -r requirements.lock || $(PIP) --require-hashes --no-deps -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(READY)

clean:  ## removes the virtual environment and the runs
	rm -rf $(VENV) runs
