"""Tables in, one self-contained HTML page out: no network, opens from disk in five years. No torch."""

from locum.report.page import report_page, write_report

__all__ = ["report_page", "write_report"]
