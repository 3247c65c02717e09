"""API keys, secrets of stream tokens, and the second wall: roles and row-level security by log."""

from alembic import op

from eventstore import wall_schema
from projections import wall

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    driver = op.get_bind().connection.driver_connection
    for statement in wall_schema.TABLES:
        driver.execute(statement)
    wall.build(driver)
