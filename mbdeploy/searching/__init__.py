"""Which width, resolution and precision to deploy for a given latency: predicted, proposed, and then measured."""
