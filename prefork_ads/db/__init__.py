"""PostgreSQL: connections, batched reads and writes, migrations, the embedded server."""
