"""Pictures of the report: each module draws one thing and returns SVG text or a data URI, the same bytes for the same input."""
