"""Benchmarks: Longhaul and its peers, measured in one run on one machine.

``make bench`` (``python -m bench``) is the way in. A *receiver* is one class in
one module of ``bench/peers``; a *load* is a plain value (``loads.py``). Nothing
here is imported by the product.
"""
