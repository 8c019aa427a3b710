"""The policies that people otherwise paste together by hand, made from a few words. Nothing here calls AWS."""
