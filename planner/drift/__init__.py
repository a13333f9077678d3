"""Small jobs rehearsed under another release of LLM Compressor, beside their plans: what that release does otherwise.

`cases` are the jobs, `compare` lays a rehearsal beside a plan, `cited` says which of the library's functions the plan
follows there, `run` does it for an environment. The record is in `schema`.
"""
