"""Salama: a complete Lightning Network node in Python."""

__version__ = "0.1.0"
