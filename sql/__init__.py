"""The database as it is reviewed: migrations and queries. Installed as `prefork_ads.sql`.

This file makes the folder a package, which an editable installation needs to find it.
"""
