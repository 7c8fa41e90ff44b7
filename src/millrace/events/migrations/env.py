"""What alembic runs: the migrations in `versions/`, inside the transaction of `millrace.events.log.migrate`."""

from alembic import context

from millrace.events.log import TABLES

context.configure(connection=context.config.attributes["connection"], target_metadata=TABLES)
context.run_migrations()
