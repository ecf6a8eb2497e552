"""HTTP plumbing: bodies, multipart, errors, deadlines and OpenAPI."""
