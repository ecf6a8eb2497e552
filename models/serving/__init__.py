"""Running a model version: runtimes, their selection and the gates between them."""
