"""LLM From Scratch 워크숍: the helper package behind the ten notebooks.

One module a week, each a floor above what it imports. Importing this package loads nothing heavy;
torch, transformers and matplotlib are imported by the functions that need them.
"""

__version__ = "0.1.0"


class WorkshopError(ValueError):
    """Something the learner can mend. The message is Korean: the value, the file and line, and what to do."""
