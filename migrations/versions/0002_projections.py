"""Asynchronous projections: where their tables are, and parked events."""

from alembic import op

from projections import projection_schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    connection = op.get_bind().execution_options(no_parameters=True)
    for statement in projection_schema.ddl():
        connection.exec_driver_sql(statement)
