"""One file per sub-command. They parse, call, print and exit; nothing here computes memory."""
