"""The tables of the projections that Headway brings, so that readers find them before the first run."""

from alembic import op

from projections.places import ensure
from projections.shipped import shipped

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    driver = op.get_bind().connection.driver_connection
    for projection in shipped():
        ensure(driver, projection)
