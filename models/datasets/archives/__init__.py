"""Reading archives safely: zip, tar and folders, within limits."""
