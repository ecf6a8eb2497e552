"""Names of the files of these jobs in a job's folder; known to the API and to the worker."""

CONTENT_FILE = "content.image"
IMAGE_FILE = "dream.image"


def style_file(index: int) -> str:
    """The file of a style, by its number from 0."""
    return f"style-{index}.image"
