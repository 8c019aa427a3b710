"""The commands, one module a group. Importing one loads no AWS SDK: what takes long is imported where it is used."""
