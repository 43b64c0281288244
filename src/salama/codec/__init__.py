"""How bytes become values and back: the types of the wire, record streams, declared messages (BOLT 1)."""
