"""Tables from files of any common dialect: text and Parquet, as names and numbers."""
