PYTHON := .venv/bin/python

.PHONY: lab
# The machine with real KVM and VFIO: a shell, or with CMD="…" one command and its status.
lab:
	@$(PYTHON) -m tests.lab.machine '$(subst ','\'',$(value CMD))'
