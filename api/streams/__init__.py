"""Live streams: server-sent events for any number of readers from one reader per log."""
