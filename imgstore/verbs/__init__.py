"""What verbs of a store do, where it is more than a call of a hook."""
