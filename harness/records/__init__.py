"""Write and read a run: records, shards, environment, schemas, checksum manifest, frame."""
