"""Deliberate faults: each patch breaks one promise of the node, and a test must notice."""
