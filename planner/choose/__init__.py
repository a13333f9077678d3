"""Will this machine do it, and how: strategies, what makes a job fit, and machines to rent."""
