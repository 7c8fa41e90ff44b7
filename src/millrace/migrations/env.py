"""What alembic runs: the migrations in `versions/`, inside the transaction of `millrace.prediction_log.migrate`."""

from alembic import context

from millrace.prediction_log import TABLES

context.configure(connection=context.config.attributes["connection"], target_metadata=TABLES)
context.run_migrations()
