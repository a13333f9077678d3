"""The local web page: a guarded server, one process that plans, and the page itself."""
