"""One virtual machine for all tests that need one."""

from vm_fixtures import machine, probes, program

__all__ = ["machine", "probes", "program"]
