"""One channel between us and one peer: BOLT 2 and BOLT 3 as a pure machine. It knows nothing of payments or chains."""
