"""The shell: actors round the pure machines, and the one file that puts everything together (``node.node``)."""
