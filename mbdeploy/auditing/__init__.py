"""What an INT8 file of any tool will do on every CPU, read from its stored integers, and how to make it safe."""
