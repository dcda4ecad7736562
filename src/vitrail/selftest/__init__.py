"""Proof on the user's own machine: that the installation works, and that faults lose nothing.

The processes and file systems that fail on purpose are those of the test suite.
"""

from vitrail.selftest.checks import Check, check_all, inject_faults

__all__ = ["Check", "check_all", "inject_faults"]
