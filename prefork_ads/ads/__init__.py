"""Ads: what each endpoint answers. Knows neither transport nor SQL."""
