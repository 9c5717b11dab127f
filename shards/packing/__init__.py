"""A release's images -> shards, indexes and a published dataset."""
