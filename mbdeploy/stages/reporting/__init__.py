"""Everything the report stage is made of: what a folder holds, what follows from it, and how it is shown."""
