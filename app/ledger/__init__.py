"""What is known about uploads. The only package that touches SQLAlchemy."""
