"""Records in, text out. A report draws a Plan that it is given: it plans nothing and writes no file."""
