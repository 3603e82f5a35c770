"""Results kept over time, when somebody says so: a Parquet file a result, queried by DuckDB; never a gate."""
