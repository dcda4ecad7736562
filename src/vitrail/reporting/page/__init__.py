"""A report -> one HTML file that asks nobody for anything, and its figures as PNG."""

from vitrail.reporting.page.html import render

__all__ = ["render"]
