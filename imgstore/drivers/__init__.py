"""The drivers that come with imgstore, one module or package each."""
