"""A multi-process prefork ad server on one port, logging to and answering from PostgreSQL.

The rooms, from the top: `cli` parses, `process` forks and supervises, `ads` answers, `db` talks to
PostgreSQL, `http` speaks the protocol, `events` writes the line of each request. Imports point only
downwards; `tests/unit/test_imports.py` holds that.
"""

__version__ = "0.1.0"
