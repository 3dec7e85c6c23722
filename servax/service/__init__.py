"""The HTTP service and its page: purification and classification for other programs."""
