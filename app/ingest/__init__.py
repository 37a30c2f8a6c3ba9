"""The data plane: how request bytes get from the socket to the storage.

Python decides what happens to them and never touches them one by one.
"""
