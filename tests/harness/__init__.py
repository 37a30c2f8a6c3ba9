"""Real servers and clients for tests: started on free ports, ended by pid."""
