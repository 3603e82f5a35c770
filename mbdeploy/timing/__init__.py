"""Timing: processes that take turns, layers beside their costs, session options, MLPerf's scenarios."""
