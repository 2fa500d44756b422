"""What Alembic runs: the steps, on the connection and within the transaction that `migrations.upgrade` gives it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
