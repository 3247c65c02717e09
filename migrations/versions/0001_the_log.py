"""The log: logs, epochs, events with their guards, checkpoints; jobs, steps, attempts."""

from alembic import op

from eventstore import schema as log_schema
from projections import schema as progress_schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    connection = op.get_bind().execution_options(no_parameters=True)  # a % in a function's text is no placeholder
    for statement in [*log_schema.ddl(), *progress_schema.ddl()]:
        connection.exec_driver_sql(statement)
