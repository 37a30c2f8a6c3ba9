"""Which edition of a file each of its parts is of.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ('uploads', 'receipts'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column('edition', sa.Integer(), nullable=False, server_default='0'))


def downgrade() -> None:
    for table in ('uploads', 'receipts'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column('edition')
