# Every target sets up .venv on first use; nothing is installed outside this folder.
PYTHON ?= python3
SHELL := /bin/bash
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: help repro report publish profile memory gpu test soak lint bench lock

help:
	@echo "make repro    data, training, evaluation, profile and report as params.yaml says (sample: about 15 minutes)"
	@echo "make report   the report from existing results; missing runs are listed with the reason"
	@echo "make publish  a report to commit, without images that must not be passed on, in reports/published/sample, or NAME=..."
	@echo "make profile  measure memory and speed again, then build the report"
	@echo "make memory   memory of every method and segmenter at the paper's sizes, computed without a GPU, no DVC, no data"
	@echo "make gpu      memory and speed of every method at the paper's sizes on an NVIDIA GPU, no DVC, no data"
	@echo "make test     the tests; make soak: long tests; make lint: ruff and mypy; make bench: speed beside other tools, in results/bench.csv"
	@echo "make lock     renew requirements.txt, the pinned set with hashes"

.venv/installed: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up .venv: PyTorch with CUDA and the rest, about 2 minutes and 5.5 GB"
	@$(PYTHON) -m venv .venv
	@$(PIP) install --require-hashes --requirement requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# The pinned set: versions for every platform that the suite supports, with the SHA-256 of their files.
lock: .venv/installed
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --extra weights --generate-hashes --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' pyproject.toml --output-file requirements.txt

repro: .venv/installed
	@python -m pipelines.repro

report: .venv/installed
	python -m pipelines.report --available

NAME ?= sample
publish: .venv/installed
	python -m pipelines.report --publish $(NAME)

profile: .venv/installed
	dvc repro --force --single-item --glob 'profile-*'
	python -m pipelines.report --available

memory: .venv/installed
	python -m pipelines.memory

gpu: .venv/installed
	python -m pipelines.gpu

# Three processes for two cores, because some tests wait.
test: .venv/installed
	python -m pytest -q -n 3 --dist loadfile

soak: .venv/installed
	python -m pytest -q -m soak

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -q -m lint tests/test_docs.py

bench: .venv/installed
	python -m pipelines.bench
