"""The NVIDIA path: the course's own stages under NeMo Curator (week 2) and NeMo Run (week 5).

These engines ask for other versions of what the course stands on, so they live in an environment of their own:
`make test-nvidia` makes it (`.venv-nvidia`) and runs tests/nvidia in it. Only the modules here import them.
"""
