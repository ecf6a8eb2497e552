"""What Alembic runs for every command: on the connection, in the transaction, it is handed."""

from alembic import context

from database.tables import Record

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Record.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
