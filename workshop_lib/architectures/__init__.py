"""The language models of week 4: one interface (`language_model`), one budget (`families`), a module for each."""
