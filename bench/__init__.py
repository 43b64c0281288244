"""How fast Salama is, measured on this machine: ``python -m bench``, or ``--quick`` for about a minute.

Each node is a process of its own, with Noise between them, real SQLite files, ``synchronous=FULL`` and log level info.
Payments have distinct hashes; invoices are made beforehand; onions are made and peeled inside the timing, which runs
from the call of ``pay`` to its answer, and that comes after the result is on disk. Settled counts are read again from
both databases. Failures are printed and never dropped.
"""
