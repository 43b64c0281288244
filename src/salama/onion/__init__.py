"""BOLT 4's onions: Sphinx packets, blinded paths, and the failures that come back."""
