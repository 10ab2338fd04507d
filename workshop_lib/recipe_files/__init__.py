"""Files that `workshop recipes` copies: they stand alone, and are not part of the library."""
