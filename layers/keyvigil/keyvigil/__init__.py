"""KeyVigil: watches customer-managed KMS keys and locks out the clusters that depend on a broken one."""

from keyvigil import dataclass_methods

dataclass_methods.use()
