"""vmrun beside QEMU, beside a lower bound, and beside whatever else is installed.

``python -m bench`` measures everything, ``python -m bench --quick`` only the start of a machine.
The measuring half (:mod:`bench.inside`) runs where a stock kernel runs under KVM: here, or in one
lab.  It writes each sample as a line of JSON; the other half makes docs/benchmarks.md, the plots
and results.json of them.
"""
