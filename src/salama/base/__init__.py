"""Words everyone shares: units, identifiers, and the shape of a state machine."""
