"""The wire format between the API and the inference workers: keys, messages, scripts."""
