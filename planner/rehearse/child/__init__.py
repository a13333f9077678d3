"""The side of a rehearsal that runs in the script's process: stdlib and that environment's torch, nothing else.

`start` is run there with planner's folder on the path; `imports` calls the other files when a library is imported.
"""
