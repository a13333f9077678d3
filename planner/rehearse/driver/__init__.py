"""The pretended driver and the books: C++ sources, and what writes the stubs. Compiled by planner/rehearse/build.py."""
