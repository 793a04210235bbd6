"""Between callers, SDKs and the library: what is checked, translated and masked."""
