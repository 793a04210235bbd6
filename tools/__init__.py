"""What the Makefile calls; the standard library is all that these modules need."""
