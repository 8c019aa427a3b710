"""The HTTP edge: what requests must look like, what answers look like, which use case stands behind which route."""

from keyvigil import dataclass_methods

dataclass_methods.use_for_api()
