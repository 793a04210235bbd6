"""librbd as several drivers use it: connections, open images, reads and writes under way."""
