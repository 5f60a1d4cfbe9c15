# Everything that is done with a checkout.  Each target installs what it needs, once.

VENV := .venv
PYTHON_HERE := $(VENV)/bin/python
COMPILED_FROM := pyproject.toml setup.py $(wildcard runner/host/native/*.c runner/host/native/*.h \
	runner/host/native/*.cdef runner/host/native/build.py)

.PHONY: help hello debian test coverage check lab bench bench-quick wheel clean packages-run packages-image packages-test packages-bench

help:
	@echo 'make hello          a virtual machine says hello (vms/hello.toml)'
	@echo 'make debian         a whole Debian 12, to its login prompt (vms/debian.toml)'
	@echo 'make test           all tests, in the lab where this host has no usable KVM'
	@echo '     TESTS="…"      some of them: files, or options of pytest'
	@echo 'make coverage       the same, and how much of the code they ran'
	@echo 'make check          ruff and mypy'
	@echo 'make lab            a shell in the lab, a machine with real KVM and VFIO'
	@echo '     CMD="…"        one command in it'
	@echo 'make bench          measures vmrun beside others; bench-quick: in three minutes'
	@echo 'make wheel          dist/vmrun-….whl'
	@echo 'make clean          removes all that these have made in the checkout'

hello: packages-run $(VENV)/runtime
	@$(PYTHON_HERE) -m runner.cli vms/hello.toml

debian: packages-run packages-image $(VENV)/runtime
	@tools/debian-image
	@$(PYTHON_HERE) -m runner.cli vms/debian.toml

test: packages-test $(VENV)/development
	@$(PYTHON_HERE) -m pytest $(TESTS)

coverage: packages-test $(VENV)/development
	@rm -f .coverage .coverage.*
	@$(PYTHON_HERE) -m coverage run -m pytest $(TESTS); status=$$?; \
	$(PYTHON_HERE) -m coverage combine -q --append; $(PYTHON_HERE) -m coverage report; exit $$status

check: $(VENV)/development
	@$(PYTHON_HERE) -m ruff check
	@$(PYTHON_HERE) -m ruff format --check -q
	@$(PYTHON_HERE) -m mypy

lab: packages-run $(VENV)/development
	@$(PYTHON_HERE) -m tests.lab.machine '$(subst ','\'',$(value CMD))'

bench: packages-bench $(VENV)/bench
	@$(PYTHON_HERE) -m bench

bench-quick: packages-test $(VENV)/development
	@$(PYTHON_HERE) -m bench --quick

# What an earlier build has left would be packed again, deleted modules too.
wheel: $(VENV)/runtime
	@rm -rf build
	@$(PYTHON_HERE) -m pip wheel -q --no-deps -w dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	rm -f runner/host/native/*.so runner/host/native/*.o
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages-bench:
	@tools/packages run image test bench

packages-run:
	@tools/packages run

packages-image:
	@tools/packages image

packages-test:
	@tools/packages run image test

$(PYTHON_HERE):
	@tools/packages build
	@$$(tools/python) -m venv $(VENV)

# The package is installed as a link to the checkout, so only its compiled part can be out of date.
$(VENV)/runtime: $(COMPILED_FROM) | $(PYTHON_HERE)
	@$(PYTHON_HERE) -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/development: $(COMPILED_FROM) | $(PYTHON_HERE)
	@$(PYTHON_HERE) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/runtime $@

$(VENV)/bench: $(VENV)/development
	@$(PYTHON_HERE) -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $(VENV)/runtime $(VENV)/development $@
