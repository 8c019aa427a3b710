"""`keyvigil doctor`: a key tried operation by operation, without any stack."""
