"""A family of networks at once: width, resolution, recipe, provider and threads, planned, kept and compared."""
