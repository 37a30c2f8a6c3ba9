"""Appended uploads: what clients sent in headers, joining several into one, and tombstones.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('uploads', schema=None) as batch_op:
        batch_op.add_column(sa.Column('concat', sa.String(length=8), nullable=True))
        batch_op.add_column(sa.Column('headers', sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column('ended_at_ms', sa.BigInteger(), nullable=True))
    op.create_table('concatenations',
    sa.Column('final_id', sa.String(length=36), nullable=False),
    sa.Column('position', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('partial_id', sa.String(length=36), nullable=False),
    sa.ForeignKeyConstraint(['final_id'], ['uploads.id'], name=op.f('fk_concatenations_final_id_uploads'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('final_id', 'position', name=op.f('pk_concatenations'))
    )
    with op.batch_alter_table('concatenations', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_concatenations_partial_id'), ['partial_id'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('concatenations', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_concatenations_partial_id'))

    op.drop_table('concatenations')
    with op.batch_alter_table('uploads', schema=None) as batch_op:
        batch_op.drop_column('ended_at_ms')
        batch_op.drop_column('headers')
        batch_op.drop_column('concat')
