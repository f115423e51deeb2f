"""The benchmark: `make bench`. What each scenario means and how to read it: docs/guides/benchmarks.md.

Owns installations of its own, started by `headwater up` in temporary homes, and measures them from outside. Refuses to use
an installation that is already there. Bars are asserted here and in no test: a bar that is missed is exit code 1.
"""
