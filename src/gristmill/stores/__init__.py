"""Where vectors are searched: the database itself (pgvector), or a LanceDB folder."""
