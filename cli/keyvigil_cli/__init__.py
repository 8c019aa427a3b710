"""The command ``keyvigil``, its API client, and the local cloud of the demo and the end-to-end tests."""
