"""Fetches the files of published data sets, checks them and unpacks them."""
