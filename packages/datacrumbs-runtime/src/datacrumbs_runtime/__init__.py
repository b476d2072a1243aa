"""The root side of DataCrumbs: loads BPF programs, records processes, writes traces."""

__version__ = "1.0.0.dev0"
