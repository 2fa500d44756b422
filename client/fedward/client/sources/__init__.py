"""Where a hospital's rows come from: CSV, Parquet, a database or FHIR resources, and one table for all of them."""

from fedward.client.sources.digests import data_digest, database_name
from fedward.client.sources.sheet import silent
from fedward.client.sources.table import DataRefusedError, SiteTable, read_site_table

__all__ = ["DataRefusedError", "SiteTable", "data_digest", "database_name", "read_site_table", "silent"]
