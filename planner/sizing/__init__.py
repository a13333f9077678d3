"""Will my machine do it: RAM and disk of a planned job."""
