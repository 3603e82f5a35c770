"""Gates over model cards for continuous integration: what must hold, how it is judged, and how it is told."""
