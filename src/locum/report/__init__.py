"""Tables in, one self-contained HTML page out: no network, opens from disk in five years. No torch."""

from locum.report.page import report_page, require_charts, write_report
from locum.report.sections import Reported

__all__ = ["Reported", "report_page", "require_charts", "write_report"]
